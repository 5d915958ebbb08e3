"""Suites under a real Ray cluster of this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.config import cells_of, load_recipe, parse_settings
from harness.track.record import STOP_NOTE, read_events
from tests.resume.test_kill import outcome
from tests.resume.traps import run_with_trap
from tests.tune.test_tune import trainers, wait_for

pytestmark = pytest.mark.slow

SUITE = """
description: small
model: {name: lenet_300_100}
data: {name: digits, batch_size: 128}
optimizer: {lr: 0.3}
schedule: {epochs: 4}
engine: {device: cpu}
axes:
  methods: [dense, static, {name: rigl, interval: 5, style: append}]
  densities: [0.1, 0.00001]
  seeds: [0, 1]
"""


SECRET = "planted-in-the-environment"


def bench(suite: Path, out: Path, *words: str, timeout: float = 500) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "120", "AWS_SECRET_ACCESS_KEY": SECRET, "MLFLOW_TRACKING_TOKEN": SECRET}
    command = [sys.executable, "-m", "harness", "bench", str(suite), "--out", str(out), *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "small.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture(scope="module")
def first(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("runs")
    return out, bench(suite, out)


def test_failed_cells_sink_nothing_and_are_reported(first: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, found = first
    assert found.returncode == 3, found.stdout + found.stderr
    results = [json.loads(p.read_text()) for p in out.glob("*/result.json")]
    states = sorted((r["method"], r["status"]) for r in results)
    assert (
        states
        == [("dense", "done")] * 2
        + [("rigl", "done")] * 2
        + [("rigl", "failed")] * 2
        + [("static", "done")] * 2
        + [("static", "failed")] * 2
    )
    assert "a budget of 1 weights is below one weight for each of 3 layers" in found.stdout
    assert "small: 10 runs" in found.stdout
    assert "for 10 runs, " in found.stdout
    assert re.search(r"10 runs took \d+:\d\d.*: [\d,]+ images/s of 2 at once", found.stdout)
    assert all((out / "board" / f"small{suffix}").stat().st_size > 5_000 for suffix in (".png", ".svg"))


def test_finished_cells_are_not_run_again(suite: Path, first: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, _ = first
    records = {p: p.stat().st_mtime_ns for p in out.glob("*/record.jsonl")}
    again = bench(suite, out, "--methods", "dense", "--json")
    assert again.returncode == 0, again.stderr
    assert "2 of 2 runs are already done" in again.stderr
    assert {p: p.stat().st_mtime_ns for p in out.glob("*/record.jsonl")} == records
    (row,) = json.loads(again.stdout)["rows"]
    assert (row["method"], row["n"]) == ("dense", 2)
    assert row["mean"] > 0.6


def test_everything_reached_the_tracking_server(first: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    from harness.track.mirror import default_uri
    from harness.track.query import TrackedRuns

    out, _ = first
    done = [r for r in TrackedRuns(default_uri(out)).results() if r["status"] == "done"]
    assert len(done) == 6


def test_no_secret_of_the_environment_is_in_what_a_suite_leaves(
    first: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, found = first
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"record.jsonl", "result.json", "config.yaml", "mlflow.db"}
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert SECRET not in found.stdout + found.stderr


def test_more_workers_than_the_cluster_has(suite: Path, tmp_path: Path) -> None:
    found = bench(suite, tmp_path, "--workers", "64", "--methods", "dense")
    assert found.returncode == 2
    assert "a run needs 64 workers with one CPU each" in found.stderr
    assert not list(tmp_path.glob("*/record.jsonl"))


def test_two_workers_with_deepspeed_stopped_and_continued(suite: Path, tmp_path: Path) -> None:
    words = shlex.split("--workers 2 --engine deepspeed --zero-stage 1 --methods rigl --seeds 0 --json")
    words += ["--set", "method.density=0.1", "--set", "schedule.epochs=40"]
    command = [sys.executable, "-m", "harness", "bench", str(suite), "--out", str(tmp_path), *words]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: driver.poll() is not None or any('"evaluation"' in p.read_text() for p in tmp_path.glob("*/rec*")))
    driver.send_signal(signal.SIGTERM)
    _, errors = driver.communicate(timeout=100)
    assert driver.returncode == 75, errors
    (run,) = [path.parent for path in tmp_path.glob("*/record.jsonl")]
    assert list(run.glob("checkpoint-*.safetensors")), "it saved itself"
    assert not (run / STOP_NOTE).exists()
    begun = (run / "record.jsonl").read_text().splitlines()[:2]
    found = bench(suite, tmp_path, *words)
    assert found.returncode == 0, found.stderr
    (result,) = json.loads(found.stdout)["results"]
    assert (result["workers"], result["engine"], result["status"]) == (2, "deepspeed-zero1", "done")
    assert result["n_active"] == 5020
    assert result["test_accuracy_last"] > 0.3
    assert (run / "record.jsonl").read_text().splitlines()[:2] == begun, "it went on"


def test_a_stopped_bench_leaves_with_75_and_continues(suite: Path, tmp_path: Path) -> None:
    words = ["--methods", "dense,rigl", "--seeds", "0-2", "--set", "method.density=0.1", "--set", "schedule.epochs=30"]
    command = [sys.executable, "-m", "harness", "bench", str(suite), "--out", str(tmp_path), *words]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/result.json")):
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    driver.send_signal(signal.SIGTERM)
    _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 75, errors
    assert "stopped: the same command continues" in errors
    done = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/result.json")}
    assert 1 <= len(done) < 6
    begun = {p.parent for p in tmp_path.glob("*/record.jsonl")} - {p.parent for p in done}
    assert all(list(run.glob("checkpoint-*.safetensors")) for run in begun), "long before the next was due"
    again = bench(suite, tmp_path, *words, "--json")
    assert again.returncode == 0, again.stderr
    assert len(json.loads(again.stdout)["results"]) == 6
    assert {p: p.stat().st_mtime_ns for p in done} == done, "what was done is not run again"


def test_a_machine_that_is_taken_away_is_no_failure(suite: Path, tmp_path: Path) -> None:
    """SIGTERM to a process that trains: it saves, the run goes on later as if undisturbed, and the others are run."""
    settings = ["method.density=0.1", "schedule.epochs=200", "evaluation.every_epochs=4", "tracking.uri=none"]
    patch, words = parse_settings(settings), ["--methods", "rigl", "--seeds", "0-3"]
    words += [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "harness", "bench", str(suite), "--out", str(tmp_path / "taken"), *words, "--json"]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    (cell,) = cells_of(load_recipe(str(suite)), patch, [0], ["rigl"])
    run_dir = tmp_path / "taken" / cell.run_id
    wait_for(lambda: driver.poll() is not None or n_evaluations(run_dir) >= 5)
    (trainer,) = trainers(run_dir)
    trainer.terminate()
    wait_for(lambda: trainer not in trainers(run_dir))
    assert list(run_dir.glob("checkpoint-*"))
    assert not (run_dir / "result.json").exists()
    answer, errors = driver.communicate(timeout=200)
    assert driver.returncode == 0, errors
    assert [r["status"] for r in json.loads(answer)["results"]] == ["done"] * 4
    assert run_with_trap(cell.config.model_dump(), tmp_path / "left alone", None) == 0
    assert outcome(run_dir) == outcome(tmp_path / "left alone" / cell.run_id)


def n_evaluations(run_dir: Path) -> int:
    return sum(e["event"] == "evaluation" for e in read_events(run_dir))


def test_a_cluster_that_is_not_there(suite: Path, tmp_path: Path) -> None:
    found = bench(suite, tmp_path, "--address", "127.0.0.1:1", "--methods", "dense")
    assert found.returncode == 2
    assert "no Ray cluster answers at '127.0.0.1:1'" in found.stderr
