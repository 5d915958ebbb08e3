"""Three hosts on one machine (tests/clusters/hosts.py): `ray up` and `ray submit` as a user gives them, over ssh, with
the project's own cluster file; a run on two hosts through a slow link, a full disk, and a host that is cut off in the
middle. A clock that is an hour ahead is tried without Ray: what pretends it, libfaketime, does not reach the kernel, by
whose clock Ray's own processes wait."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import yaml

from harness.track.record import read_events, read_result
from tests.clusters.hosts import ROOT, Hosts, lacking

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(lacking()), reason=lacking() or "-")]

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
HEALTH = "RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=3000 RAY_health_check_failure_threshold=3"
HEALTH += " RAY_grpc_client_keepalive_time_ms=5000 RAY_grpc_client_keepalive_timeout_ms=5000"
HEALTH += " RAY_gcs_rpc_server_reconnect_timeout_s=10"
"""Ray takes a minute by default to be sure that a host is gone, and the host minutes to be sure that it is alone."""

SETTINGS = ("model.name=resnet18", "model.width=4", "method.name=set", "method.density=0.1", "method.interval=20")
SET = [f"--set={setting}" for setting in SETTINGS]
TWO = ["bench", "digits_r34", *SET, *shlex.split("--workers 2 --engine deepspeed --zero-stage 1 --tracking none")]
LONG = ["--set=evaluation.checkpoint_seconds=0", "--set=schedule.epochs=12"]
TWO += LONG


@dataclass
class Cluster:
    hosts: Hosts
    file: Path
    env: dict[str, str]

    def submit(self, *words: str) -> subprocess.Popen[str]:
        command = ["ray", "submit", str(self.file), str(ROOT / "clusters" / "submit.py"), "--", *words]
        return subprocess.Popen(
            command, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def on_head(self, *words: str) -> subprocess.CompletedProcess[str]:
        line = ". ~/.bashrc; harness " + " ".join(words)
        return self.hosts["h1"].run("bash", "-lc", line, check=False, env={**os.environ, "TERM": "dumb"})


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    base = Path(mkdtemp(prefix="hosts-", dir="/var/tmp"))  # each host has a /tmp of its own
    hosts = Hosts(base)
    try:
        yield started(base, hosts)
    finally:
        hosts.end()
        shutil.rmtree(base, ignore_errors=True)
        for left in Path("/tmp/ray").glob(f"cluster-{base.name}*"):
            left.unlink()


def started(base: Path, hosts: Hosts) -> Cluster:
    """`ray up` of ray_config.yaml; changed are addresses, user, the place of shared storage, where the packages are, a
    CPU of the head for runs, how soon a host counts as lost, and the cluster's name."""
    plain = yaml.safe_load((ROOT / "ray_config.yaml").read_text())
    plain["provider"] |= {"head_ip": hosts["h1"].address, "worker_ips": [hosts["h2"].address, hosts["h3"].address]}
    plain["cluster_name"] = base.name  # Ray keeps what it knows of one in the client's /tmp
    plain["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key)}
    text = yaml.safe_dump(plain, width=10_000)
    for old, new in (
        ("/shared/harness", str(hosts.shared)),
        ("make setup", f"ln -sfn {sys.prefix} .venv"),
        ("--num-cpus=0", "--num-cpus=1"),
        ("ray start --address", "ray start --num-cpus=1 --address"),
        ("- export RAY_AUTH_MODE", f"- export {HEALTH} RAY_AUTH_MODE"),
        ("- export RAY_enable", f"- export {HEALTH} RAY_enable"),
    ):
        assert old in text
        text = text.replace(old, new)
    file, home = base / "cluster.yaml", base / "client"
    file.write_text(text)
    (home / ".ray").mkdir(parents=True)
    env = {**os.environ, "HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    env |= {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "TMPDIR": str(base)}
    subprocess.run(["ray", "get-auth-token", "--generate"], env=env, check=True, capture_output=True)
    up = subprocess.run(
        ["ray", "up", "-y", "--no-config-cache", str(file)], env=env, cwd=ROOT, capture_output=True, text=True
    )
    assert up.returncode == 0, up.stdout + up.stderr
    found = Cluster(hosts, file, env)
    wait_for(lambda: "3.0 CPU" in hosts["h1"].run("bash", "-lc", ". ~/.bashrc; ray status", check=False).stdout, 200)
    return found


def wait_for(there: Callable[[], Any], seconds: float) -> Any:
    until = time.monotonic() + seconds
    while not (found := there()):
        assert time.monotonic() < until
        time.sleep(0.5)
    return found


def test_each_host_is_asked(cluster: Cluster) -> None:
    done = cluster.on_head("doctor", "--address", "auto", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert [(n["name"], n["trains"], n["sees_runs"], n["unreachable"]) for n in found["nodes"]] == [
        (name, True, True, []) for name in ("h1", "h2", "h3")
    ]
    assert len({n["software"] for n in found["nodes"]}) == 1
    assert all(abs(n["clock_s"]) < 1 for n in found["nodes"])


def test_what_a_host_lacks_is_said_before_anything_trains(cluster: Cluster) -> None:
    own = cluster.hosts.own / "runs"
    done = cluster.on_head("bench", "digits_r34", *SET, "--address", "auto", "--out", str(own))
    assert done.returncode == 2
    assert f"does not see {own} as it is here: --out must lie on storage that all nodes share" in done.stderr
    assert not list(own.glob("*/record.jsonl"))
    data = cluster.hosts.own / "data" / "mnist" / "raw"
    cluster.hosts["h1"].run("mkdir", "-p", str(data))
    cluster.hosts["h2"].run("mkdir", "-p", str(data))
    words = ["bench", "mnist_lenet300", "--address", "auto", "--data-root", str(cluster.hosts.own / "data")]
    done = cluster.on_head(*words)
    assert done.returncode == 2
    assert "node h3" in done.stderr
    assert "has no data for mnist: data root" in done.stderr


def test_runs_of_one_worker_go_to_all_hosts(cluster: Cluster) -> None:
    words = ["bench", "digits_r34", *SET, "--seeds", "0,1,2", "--tracking", "none"]
    submitted = cluster.submit(*words)
    said, _ = submitted.communicate(timeout=400)
    assert submitted.returncode == 0, said
    results = [read_result(path.parent) for path in cluster.hosts.shared.glob("runs/*/result.json")]
    assert sorted(r["hosts"] for r in results if r) == [["h1"], ["h2"], ["h3"]]


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster) -> dict[str, Any]:
    """The same run on the same two hosts without Ray: each rank a process."""
    return by_hand(cluster, "by-hand", {})


def by_hand(cluster: Cluster, name: str, wrong: dict[str, str]) -> dict[str, Any]:
    """`wrong`: set in the environment of the second host's rank."""
    out, ranks = cluster.hosts.shared / name, []
    for rank, host in enumerate(("h1", "h2")):
        env = {**os.environ, "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "29511"}
        env |= {"MASTER_ADDR": cluster.hosts["h1"].address, "PYTHONPATH": str(ROOT), **(wrong if rank else {})}
        train = "import sys; from tests.clusters.test_hosts import rank_of; rank_of(sys.argv[1])"
        command = cluster.hosts[host].enter(sys.executable, "-c", train, str(out))
        ranks.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    said = [process.communicate(timeout=400)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], said
    return outcome(out)


def rank_of(out: str) -> None:
    from harness.config import cells_of, load_recipe, parse_settings
    from harness.train.run import execute

    settings = [word.removeprefix("--set=") for word in [*SET, *LONG]]
    (cell,) = cells_of(
        load_recipe("digits_r34"),
        parse_settings([*settings, "engine.workers=2", "engine.name=deepspeed", "engine.zero_stage=1"]),
    )
    for _ in execute(cell.config, 0, Path(out)):
        pass


def outcome(out: Path) -> dict[str, Any]:
    (run,) = [path.parent for path in out.glob("*/record.jsonl")]
    result, events = read_result(run), list(read_events(run))
    assert result is not None
    assert result["status"] == "done", result
    losses = {e["step"]: e["train_loss"] for e in events if e["event"] == "evaluation"}
    return {**result, "losses": losses, "began_on": events[0]["hosts"]}


def submitted(cluster: Cluster, out: Path, disturb: Callable[[list[str]], None]) -> dict[str, Any]:
    """A run on two hosts through DeepSpeed, disturbed once it has a checkpoint."""
    process = cluster.submit(*TWO, "--out", str(out))
    wait_for(lambda: list(out.glob("*/checkpoint-*.safetensors")), 300)
    (run,) = [path.parent for path in out.glob("*/record.jsonl")]
    disturb(next(read_events(run))["hosts"])
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert "(estimated: " in said, "its first steps were taken on both hosts before"
    return outcome(out)


def assert_same(run: dict[str, Any], other: dict[str, Any]) -> None:
    assert run["losses"] == other["losses"]
    for key in ("test_accuracy_last", "n_active", "train_flops"):
        assert run[key] == other[key], key
    for file in ("masks.safetensors", "weights.safetensors"):
        assert run["sha256"][file] == other["sha256"][file], file


def test_a_slow_link_and_a_full_disk_change_nothing(cluster: Cluster, undisturbed: dict[str, Any]) -> None:
    def disturb(hosts: list[str]) -> None:
        assert len(hosts) == 2
        other = next(name for name in hosts if name != "h1")
        cluster.hosts[other].slow_down("50mbit")
        cluster.hosts[other].fill_disk()

    try:
        assert_same(submitted(cluster, cluster.hosts.shared / "slow", disturb), undisturbed)
    finally:
        for name in ("h2", "h3"):
            cluster.hosts[name].run("rm", "-f", "/tmp/full")


@pytest.mark.skipif(not FAKETIME.exists(), reason="needs libfaketime: apt-get install faketime")
def test_a_clock_an_hour_ahead_changes_nothing(cluster: Cluster, undisturbed: dict[str, Any]) -> None:
    wrong = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": "+3600"}
    assert_same(by_hand(cluster, "wrong-clock", wrong), undisturbed)


HOLD = """
import sys, time, ray
from pathlib import Path
ray.init("auto", logging_level="ERROR")
head = ray.get_runtime_context().get_node_id()
here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(head, soft=False)
@ray.remote(num_cpus=1, scheduling_strategy=here)
def hold(note):
    Path(note).with_suffix(".held").touch()
    while not Path(note).exists():
        time.sleep(0.2)
ray.get(hold.remote(sys.argv[1]))
"""


def test_a_host_is_cut_off_in_the_middle_of_a_run(cluster: Cluster, undisturbed: dict[str, Any]) -> None:
    """The one that has the first rank, and with it the run's files in its hands; the head's CPU is free only then."""
    note, lost = cluster.hosts.shared / "let-go", []
    line = f'. ~/.bashrc; python -c "$HOLD" {note}'
    holder = subprocess.Popen(cluster.hosts["h1"].enter("bash", "-lc", line), env={**os.environ, "HOLD": HOLD})
    wait_for(note.with_suffix(".held").exists, 120)

    def disturb(hosts: list[str]) -> None:
        assert sorted(hosts) == ["h2", "h3"]
        lost.append(hosts[0])
        cluster.hosts[lost[0]].cut_off()
        note.touch()

    found = submitted(cluster, cluster.hosts.shared / "cut", disturb)
    holder.wait(timeout=60)
    assert found["began_on"][0] == lost[0]  # it was continued, not begun again
    assert lost[0] not in found["hosts"]
    assert_same(found, undisturbed)


FAKE = {"type": "fake_multinode", "use_node_id_as_ip": True, "disable_node_updaters": True}
FAKE["disable_launch_config_check"] = True
GROWING = {
    "cluster_name": "growing", "max_workers": 1, "provider": FAKE, "head_node_type": "head",
    "auth": {}, "docker": {}, "upscaling_speed": 1.0, "idle_timeout_minutes": 5, "file_mounts": {},
    **{key: [] for key in (
        "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
        "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter",
    )}, "file_mounts_sync_continuously": False,
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 1},
    },
}  # fmt: skip


def test_a_suite_waits_for_nodes_that_may_come() -> None:
    """Ray's own autoscaler, whose provider makes up nodes; the cluster has none that trains until the suite asks."""
    base = Path(mkdtemp(prefix="growing-", dir="/var/tmp"))
    hosts = Hosts(base, ["h4"])
    try:
        env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RAY_AUTH_MODE": "disabled"}
        env |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "0"}
        described = base / "h4" / "home" / "described.yaml"
        described.write_text(yaml.safe_dump(GROWING))
        start = ["ray", "start", "--head", "--num-cpus=0", "--autoscaling-config=/root/described.yaml"]
        hosts["h4"].run(*start, env=env)
        words = ["bench", "digits_r34", *SET, "--set=schedule.epochs=2", "--address", "auto", "--tracking", "none"]
        words += ["--out", str(hosts.own)]
        refused = hosts["h4"].run(sys.executable, "-m", "harness", *words, check=False, env=env)
        assert refused.returncode == 2
        assert "the cluster has 0 CPUs: start a node that offers some" in refused.stderr
        described.rename(described.with_name("ray_bootstrap_config.yaml"))  # where `ray up` leaves it
        done = hosts["h4"].run(sys.executable, "-m", "harness", *words, check=False, env=env, timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
        (result,) = [read_result(path.parent) for path in (base / "h4" / "own").glob("*/result.json")]
        assert result is not None
        assert result["status"] == "done"
    finally:
        hosts.end()
        shutil.rmtree(base, ignore_errors=True)
