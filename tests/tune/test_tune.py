"""Searches under a real Ray cluster, with real kills: one cluster for the module, each search a driver of its own."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psutil
import pytest
import yaml
from optuna.trial import TrialState

from harness.track.record import read_events
from harness.tune.study import load_trials
from tests.resume.test_kill import outcome
from tests.tune.studies import BASE, SPACE, write_search

pytestmark = pytest.mark.slow

SLOWER = {**BASE, "schedule": {"epochs": 60}, "evaluation": {"every_epochs": 4, "checkpoint_seconds": 0.3}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head node with the drivers, and a node that may be lost; fake GPUs, as here are none."""
    from ray.cluster_utils import Cluster

    folder = mkdtemp(prefix="ray-")  # sockets lie there, and their paths must be short
    held = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])  # for tests.tune.blind
    here = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 3, "num_gpus": 1, "include_dashboard": False, "temp_dir": folder},
    )
    yield here
    here.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
    os.environ.pop("PYTHONPATH")
    if held is not None:
        os.environ["PYTHONPATH"] = held


def tune(path: Path, out: Path, address: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "harness", "tune", str(path), "--out", str(out), "--address", address, *words]
    return subprocess.Popen(
        command, env={**os.environ, "COLUMNS": "200"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    out, err = process.communicate(timeout=400)
    assert process.returncode == code, out[-3000:] + err[-3000:]
    return out + err


def trials_of(out: Path, name: str = "small") -> list[Any]:
    return load_trials(out / "studies" / name, name).get_trials(deepcopy=False)


def plain(out: Path) -> list[tuple[Any, ...]]:
    return [(t.number, t.state, t.params, t.values, t.intermediate_values) for t in trials_of(out)]


def wait_for(what: Any, seconds: float = 400) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def n_evaluations(out: Path) -> int:
    runs = (out / "studies" / "small" / "runs").glob("*")
    return sum(e["event"] == "evaluation" for run in runs for e in read_events(run))


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_killed_at_any_moment_it_ends_as_if_undisturbed(tmp_path: Path, cluster: Any) -> None:
    """One worker: the same trials to the last digit, pruned ones and their stops included."""
    pruner = {"name": "median", "startup": 2, "first_step": 100}
    path = write_search(tmp_path, recipe=SLOWER, budget={"trials": 6}, pruner=pruner, confirm={"top": 1, "seeds": 1})
    words = ("--concurrent", "1")
    whole = finish(tune(path, tmp_path / "whole", cluster.address, *words))
    moments = random.Random(0)
    for _ in range(2):
        process = tune(path, tmp_path / "parts", cluster.address, *words)
        seen = n_evaluations(tmp_path / "parts")
        wanted = seen + moments.randint(1, 12)
        wait_for(
            lambda wanted=wanted, process=process: (
                n_evaluations(tmp_path / "parts") >= wanted or process.poll() is not None
            )
        )
        time.sleep(moments.random() / 2)
        kill(process)
    said = finish(tune(path, tmp_path / "parts", cluster.address, *words))
    assert plain(tmp_path / "parts") == plain(tmp_path / "whole")
    states = [t.state for t in trials_of(tmp_path / "whole")]
    assert states.count(TrialState.PRUNED) >= 1
    assert states.count(TrialState.PRUNED) + states.count(TrialState.COMPLETE) == 6
    assert whole.splitlines()[-4:-2] == [line.replace("parts", "whole") for line in said.splitlines()[-4:-2]]
    best = [yaml.safe_load((tmp_path / of / "studies/small/best.yaml").read_text()) for of in ("whole", "parts")]
    for recipe in best:
        for cost in ("train_seconds", "train_flops"):  # a pruned run stops soon after its rung, not at it
            del recipe["tuning"][cost]
    assert best[0] == best[1]


def test_ten_kills_with_several_trials_running(tmp_path: Path, cluster: Any) -> None:
    """At the end: as many trials, records and tracking runs as asked for, none twice, none running for ever."""
    recipe = {k: v for k, v in SLOWER.items() if k != "tracking"} | {"schedule": {"epochs": 40}}
    n = 8
    path = write_search(tmp_path, recipe=recipe, budget={"trials": n}, confirm={"top": 1, "seeds": 1})
    out, moments = tmp_path / "out", random.Random(1)
    for i in range(10):
        process = tune(path, out, cluster.address, "--concurrent", "3")
        if i % 2:  # while starting, or soon after
            time.sleep(moments.uniform(3, 12))
        else:  # while trials train
            wanted = n_evaluations(out) + moments.randint(1, 12)
            wait_for(lambda wanted=wanted, process=process: n_evaluations(out) >= wanted or process.poll() is not None)
        kill(process)
    finish(tune(path, out, cluster.address, "--concurrent", "3"))
    trials = trials_of(out)
    assert [t.number for t in trials] == list(range(n))
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    results = [json.loads(p.read_text()) for p in (out / "studies/small/runs").glob("*/result.json")]
    assert len(results) == n + 1  # one confirmed with a fresh seed
    assert {r["status"] for r in results} == {"done"}
    for trial in trials:
        (run,) = trial.user_attrs["runs"]
        (result,) = (r for r in results if r["run_id"] == run)
        assert trial.values == [result["val_accuracy_last"]]
        steps = [e["step"] for e in read_events(out / "studies/small/runs" / run) if e["event"] == "evaluation"]
        assert steps == sorted(set(steps))
    with sqlite3.connect(out / "mlflow.db") as held:
        parents = held.execute("select count(distinct value) from tags where key = 'mlflow.parentRunId'").fetchone()[0]
        names = {name for (name,) in held.execute("select name from runs")}
    assert tracked(out) == {"study": {"FINISHED": 1}, "trial": {"FINISHED": n + 1}}
    assert names == {"small", "one of the best again, seed 1", *(f"trial {i}, seed 0" for i in range(n))}
    assert parents == 1


def test_a_lost_worker_and_a_lost_node(tmp_path: Path, cluster: Any) -> None:
    recipe = {**SLOWER, "schedule": {"epochs": 90}}
    path = write_search(tmp_path, recipe=recipe, budget={"trials": 4}, confirm={"top": 0})
    out = tmp_path / "out"
    node = cluster.add_node(num_cpus=2)
    process = tune(path, out, cluster.address, "--concurrent", "4")
    wait_for(lambda: n_evaluations(out) >= 4)
    trainers(out)[0].kill()
    wait_for(lambda: len(trainers(out)) >= 3)
    cluster.remove_node(node, allow_graceful=False)
    finish(process)
    assert [t.state for t in trials_of(out)] == [TrialState.COMPLETE] * 4


def test_a_node_that_goes_while_it_is_asked_is_no_fault(tmp_path: Path, cluster: Any) -> None:
    """Ray lists it for half a minute more: `bench` just after it would be refused."""
    node = cluster.add_node(num_cpus=1)
    (raylet,) = node.all_processes["raylet"]
    try:
        os.kill(raylet.process.pid, signal.SIGSTOP)
        words = ["-m", "harness", "doctor", "--address", cluster.address, "--out", str(tmp_path)]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=200, check=False)
    finally:
        os.kill(raylet.process.pid, signal.SIGCONT)
        cluster.remove_node(node, allow_graceful=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cannot run the harness" not in done.stdout + done.stderr


def test_a_suite_whose_driver_is_killed_and_whose_node_is_lost(tmp_path: Path, cluster: Any) -> None:
    """Results are those of a suite that nothing happened to, to the last bit."""
    suite = tmp_path / "suite.yaml"
    axes = {"methods": ["rigl", "set"], "densities": [0.1], "seeds": [0, 1]}
    recipe = {**SLOWER, "schedule": {"epochs": 48}, "axes": axes, "description": "two methods"}
    del recipe["method"]
    suite.write_text(yaml.safe_dump(recipe))

    def bench(out: Path) -> subprocess.Popen[str]:
        words = ["-m", "harness", "bench", str(suite), "--out", str(out), "--address", cluster.address]
        return subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def evaluated(out: Path) -> int:
        return sum(e["event"] == "evaluation" for p in out.glob("*/record.jsonl") for e in read_events(p.parent))

    parts, whole = tmp_path / "parts", tmp_path / "whole"
    driver = bench(parts)
    wait_for(lambda: evaluated(parts) >= 8)
    kill(driver)
    node = cluster.add_node(num_cpus=2)
    driver = bench(parts)
    before = evaluated(parts)
    wait_for(lambda: evaluated(parts) >= before + 8)
    cluster.remove_node(node, allow_graceful=False)
    finish(driver)
    finish(bench(whole))
    names = sorted(p.name for p in whole.iterdir() if (p / "record.jsonl").exists())
    assert len(names) == 4
    for name in names:
        assert outcome(parts / name) == outcome(whole / name)


def trainers(out: Path) -> list[psutil.Process]:
    """The processes that train a run under `out`: they hold its lock."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "ray::" in " ".join(process.cmdline()) and any(
                f.path.startswith(f"{out}/") and f.path.endswith("/.lock") for f in process.open_files()
            ):
                found.append(process)
    return found


def test_a_second_driver_a_stop_and_a_full_disk(tmp_path: Path, cluster: Any) -> None:
    """A full disk is a limit on the size of the driver's own files: no mount is needed for it."""
    recipe = {**SLOWER, "schedule": {"epochs": 120}}  # they are still at it when the stop comes
    path = write_search(tmp_path, recipe=recipe, budget={"trials": 3}, confirm={"top": 0})
    out = tmp_path / "out"
    first = tune(path, out, cluster.address)
    wait_for(lambda: n_evaluations(out) >= 1)
    held = trainers(out)
    for trainer in held:  # so that none ends before the second driver has started
        trainer.suspend()
    said = finish(tune(path, out, cluster.address), code=2)
    assert "another process is running the study small" in said
    first.send_signal(signal.SIGTERM)
    for trainer in held:
        trainer.resume()
    said = finish(first, code=75)
    assert "the same command continues" in said
    size = (out / "studies/small/journal.log").stat().st_size + 400
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY)); "
        "from harness.cli import main; sys.argv = ['harness', *sys.argv[1:]]; main()"
    )
    words = ["tune", str(path), "--out", str(out), "--address", cluster.address]
    full = subprocess.Popen(
        [sys.executable, "-c", limited, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said = finish(full, code=2)
    assert "cannot write its files: File too large; make room, then the same command continues" in said
    assert "Traceback" not in said
    said = finish(tune(path, out, cluster.address, "--tracking", "http://127.0.0.1:9"))  # nobody listens there
    assert "tracking server http://127.0.0.1:9 does not answer" in said
    assert [t.state for t in trials_of(out)] == [TrialState.COMPLETE] * 3


def test_what_comes_out(tmp_path: Path, cluster: Any) -> None:
    """The data set's test labels are out of range: looking at them once would fail a run. One setting diverges."""
    recipe = {**BASE, "data": {"name": "tests.tune.blind:read", "batch_size": 128}}
    space = {
        "optimizer.lr": {"kind": "choice", "of": [0.1, 0.3, 1.0e30]},
        "method.drop_fraction": {"kind": "float", "low": 0.2, "high": 0.4, "step": 0.2},
    }
    path = write_search(tmp_path, recipe=recipe, space=space, sampler={"name": "grid"}, confirm={"top": 2, "seeds": 2})
    out = tmp_path / "out"
    folder = out / "studies" / "small"
    said = finish(tune(path, out, cluster.address))
    trials = trials_of(out)
    assert len(trials) == 6
    for trial in trials:
        diverges = trial.params["optimizer.lr"] == 1.0e30
        assert trial.state == (TrialState.FAIL if diverges else TrialState.COMPLETE)
        assert ("is not finite at step" in trial.user_attrs.get("reason", "")) == diverges
    assert "6 trials (4 complete, 2 fail)" in said
    assert "failed: the loss is not finite at step" in said
    assert f"harness train {folder / 'best.yaml'}" in said
    summary = json.loads((folder / "summary.json").read_text())
    assert [len(c["values"]) for c in summary["confirmed"]] == [2, 2]
    assert [c["seeds"] for c in summary["confirmed"]] == [[1, 2], [1, 2]]
    assert summary["best"] == summary["confirmed"][0]["number"]
    page = (folder / "report.html").read_text()
    assert "Plotly.newPlot" in page
    assert 'src="http' not in page
    again = finish(tune(path, out, cluster.address))
    assert "the search is done" in again
    shown = harness("study", "small", "--out", str(out), "--json")
    assert json.loads(shown.stdout)["n_trials"] == 6
    looked = harness("train", str(folder / "best.yaml"), "--out", str(out))
    assert looked.returncode != 0  # training itself does evaluate the test set
    assert "out of bounds" in looked.stderr
    trained = harness(
        "train", str(folder / "best.yaml"), "--set", "data.name=digits", "--seed", "7", "--out", str(out), "--json"
    )
    assert trained.returncode == 0, trained.stderr
    (row,) = json.loads(trained.stdout)["rows"]
    assert (row["tuning"]["trials"], row["tuning"]["study"]) == (6, "small")
    assert row["tuning"]["best"] == summary["confirmed"][0]["mean"]
    assert set(row["tuning"]["expected_best"]) == {"1", "2", "4"}
    assert "tuned: 6 trials of the study small" in row["remarks"][0]
    for _ in range(2):  # nothing was tracked; sending the records twice is sending them once
        sent = harness("sync", "--out", str(out))
        assert "and 10 of searches" in sent.stdout, sent.stderr
    held = tracked(out)
    assert held["study"] == {"FINISHED": 1}
    assert held["trial"] == {"FINISHED": 8, "FAILED": 2}  # four of six trials, four confirmations


def tracked(out: Path) -> dict[str, dict[str, int]]:
    """How many tracking runs there are of each kind and state."""
    found: dict[str, dict[str, int]] = {}
    with sqlite3.connect(out / "mlflow.db") as held:
        for kind, status, n in held.execute(
            "select t.value, r.status, count(*) from runs r join tags t on t.run_uuid = r.run_uuid "
            "where t.key = 'harness.kind' group by 1, 2"
        ):
            found.setdefault(kind, {})[status] = n
    return found


def harness(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "harness", *words], capture_output=True, text=True, timeout=300)


def test_several_trials_share_a_gpu_and_give_it_back(tmp_path: Path, cluster: Any) -> None:
    """Shares of a fake GPU: Ray counts it, the runs train on the CPU, as torch sees none."""
    recipe = {**SLOWER, "engine": {"device": "auto"}}
    space = {**SPACE, "optimizer.lr": {"kind": "choice", "of": [0.1, 1.0e30]}}
    path = write_search(tmp_path, recipe=recipe, space=space, budget={"trials": 8}, confirm={"top": 0})
    out = tmp_path / "out"
    process = tune(path, out, cluster.address, "--gpu-share", "0.5")
    at_once = 0
    while process.poll() is None:
        at_once = max(at_once, len([t for t in running(out)]))
        time.sleep(0.2)
    finish(process)
    assert at_once == 2
    states = {t.state for t in trials_of(out)}
    assert states == {TrialState.COMPLETE, TrialState.FAIL}
    wait_until_free(cluster)


def wait_until_free(cluster: Any) -> None:
    """Every CPU and (fake) GPU of the cluster is given back."""
    import ray

    ray.init(address=cluster.address, logging_level="ERROR")
    try:
        for kind in ("CPU", "GPU"):
            wait_for(lambda kind=kind: ray.available_resources().get(kind) == ray.cluster_resources()[kind], 30)
    finally:
        ray.shutdown()


def running(out: Path) -> list[Any]:
    try:
        return [t for t in trials_of(out) if t.state == TrialState.RUNNING]
    except Exception:  # not begun
        return []


def test_trials_of_two_deepspeed_workers_are_pruned_too(tmp_path: Path, cluster: Any) -> None:
    pruner = {"name": "median", "startup": 1, "first_step": 20}
    first = {"optimizer.lr": 0.3, "method.drop_fraction": 0.3}
    bad = {"optimizer.lr": 0.01, "method.drop_fraction": 0.3}
    recipe = {**SLOWER, "schedule": {"epochs": 40}, "evaluation": {"every_epochs": 2}}
    path = write_search(
        tmp_path, recipe=recipe, budget={"trials": 2}, pruner=pruner, start=[first, bad], confirm={"top": 0}
    )
    words = ("--workers", "2", "--engine", "deepspeed", "--zero-stage", "1", "--concurrent", "1")
    finish(tune(path, tmp_path / "out", cluster.address, *words))
    assert [t.state for t in trials_of(tmp_path / "out")] == [TrialState.COMPLETE, TrialState.PRUNED]
    (run,) = trials_of(tmp_path / "out")[1].user_attrs["runs"]
    events = list(read_events(tmp_path / "out/studies/small/runs" / run))
    assert events[-1]["status"] == "pruned"
    assert max(e["step"] for e in events if e["event"] == "evaluation") < 400
    wait_until_free(cluster)
