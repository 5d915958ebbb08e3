"""The cluster descriptions, by the parsers of the tools that read them where these can be had.

Not to be had here: clouds, Kubernetes, a Docker engine. What their files say is read as YAML, their Ray commands by
Ray's own parser. The Slurm script is run with stand-ins for srun and scontrol, and on a real Slurm in test_slurm.py.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "clusters"
PINS = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def ray_start(words: list[str]) -> dict[str, Any]:
    """What Ray's own command line makes of the words after `ray start`; it refuses options that it does not have."""
    from ray.scripts.scripts import start

    return start.make_context("start", words).params


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_ray_accepts_what_it_would_start_on_a_cloud(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((CLUSTERS / name).read_text())
    validate_config(prepare_config(config))
    nodes = config["available_node_types"]
    assert nodes["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert nodes["gpu"]["min_workers"] == 0
    assert nodes["gpu"]["max_workers"] == config["max_workers"]
    starts_with_a_token(config)


def starts_with_a_token(config: dict[str, Any]) -> None:
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for command in (config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]):
        assert "RAY_AUTH_MODE=token" in command
        assert "HARNESS_OUT=/shared/" in command
        ray_start(shlex.split(command.split("ray start ")[1].replace("$RAY_HEAD_IP", "10.0.0.1")))


def test_containers_on_machines_of_ones_own_are_what_the_cluster_file_is() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config, bare = (yaml.safe_load(p.read_text()) for p in (CLUSTERS / "onprem.yaml", ROOT / "ray_config.yaml"))
    validate_config(prepare_config(dict(config)))
    starts_with_a_token(config)
    assert "rsync" in (CLUSTERS / "Dockerfile").read_text(), "with which Ray brings the token into a container"
    for key in ("provider", "auth", "max_workers"):
        assert config[key] == bare[key]
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert config[key][-1].split("ray start")[1] == bare[key][-1].split("ray start")[1]


def test_the_containers_of_a_cluster_are_one_cluster() -> None:
    file = yaml.safe_load((CLUSTERS / "compose.yaml").read_text())
    services = file["services"]
    assert ray_start(shlex.split(services["head"]["command"])[2:])["head"]
    for worker in ("worker1", "worker2"):
        assert ray_start(shlex.split(services[worker]["command"])[2:])["address"] == "head:6379"
        assert services[worker]["environment"]["RAY_AUTH_MODE"] == "token"
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
        assert {v.split(":")[0] for v in service.get("volumes", [])} <= set(file["volumes"]), name
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published), "nobody outside reaches what asks for no password"
    assert not re.search(r"PASSWORD: *[\w\"']+$", (CLUSTERS / "compose.yaml").read_text(), re.MULTILINE)


def test_kubernetes_gets_pods_whose_volumes_exist() -> None:
    claim, cluster, job = yaml.safe_load_all((CLUSTERS / "kuberay.yaml").read_text())
    spec = cluster["spec"]
    assert spec["rayVersion"] == PINS["ray"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
            assert {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "HARNESS_OUT"} <= {e["name"] for e in container["env"]}
        ray_start([f"--{key}={value}" for key, value in group["rayStartParams"].items()])
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    assert shlex.split(job["spec"]["entrypoint"])[1] == "/opt/sparsity-harness/clusters/submit.py"


def test_the_image_holds_what_it_runs() -> None:
    lines = (CLUSTERS / "Dockerfile").read_text().splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY")]
    for name in (name for names in copied for name in names):
        assert (ROOT / name).exists(), name
    packages = re.findall(r"include = \[(.*)\]", (ROOT / "pyproject.toml").read_text())[0]
    for package in re.findall(r"\"(\w+)\*\"", packages):
        assert [package] in copied, package
    assert (CLUSTERS / "Dockerfile.dockerignore").exists()


STAND_INS = {
    "scontrol": 'printf "node1\\nnode2\\n"',
    "srun": 'echo "srun $*" >> "$TOLD"; exec sleep "${SLEEP:-0}"',
    "ray": 'mkdir -p "$HOME/.ray"; echo token > "$HOME/.ray/auth_token"',
}


def slurm(tmp_path: Path, *words: str, **env: str) -> subprocess.Popen[str]:
    for name, body in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    script = (CLUSTERS / "slurm.sbatch").read_text().replace('PATH="$PWD/.venv/bin:$PATH"', "PATH")
    given = {
        "HOME": str(tmp_path), "TOLD": str(tmp_path / "told"), "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "41",
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", **env,
    }  # fmt: skip
    return subprocess.Popen(
        ["bash", "-c", script, "slurm.sbatch", *words], env=given, stderr=subprocess.PIPE, text=True
    )


def test_slurm_starts_ray_on_every_node_and_the_command_on_one(tmp_path: Path) -> None:
    assert slurm(tmp_path, "bench", "demo", "--seeds", "0-4").wait(30) == 0
    said = (tmp_path / "told").read_text()
    assert "symmetric-run --address node1:20041 --min-nodes 2 --" in said
    assert "python clusters/submit.py --here bench demo --seeds 0-4" in said
    assert (tmp_path / ".ray" / "auth_token").exists()


def test_slurm_passes_the_warning_before_its_limit_on(tmp_path: Path) -> None:
    """--signal=B:TERM reaches the script alone; the command must hear it to save its runs."""
    process = slurm(tmp_path, "bench", "demo", SLEEP="60")
    until = time.monotonic() + 30
    while not (tmp_path / "told").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM


def test_slurm_asks_what_shall_run(tmp_path: Path) -> None:
    process = slurm(tmp_path)
    assert process.wait(30) == 2
    assert process.stderr is not None
    assert "what shall run?" in process.stderr.read()


def test_ray_has_the_command_that_slurm_gives() -> None:
    from ray.scripts.scripts import cli

    assert "symmetric-run" in cli.commands
