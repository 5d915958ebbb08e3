"""A run that is asked to leave, and the same command again: the same final record. Kills: test_kill_points."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from harness.track.record import read_events

pytestmark = pytest.mark.slow

# EAST with every part on, so that a kill can fall into a cycle and into the phase-out
RECIPE = """
model: {name: resnet34, width: 4}
data: {name: digits, batch_size: 128, pad: 1}
method:
  name: east
  density: 0.03
  interval: 15
  dyrelu: {start_epoch: 2, end_epoch: 6}
  cyclic: {n_cycles: 2, cycle_epochs: 2, interval: 5}
optimizer: {lr: 0.1, clip_norm: 1.0, clip_rule: dense, ema_decay: 0.9}
schedule: {epochs: 8}
evaluation: {every_epochs: 0.5, checkpoint_seconds: 0}
engine: {device: cpu, threads: 1}
"""
TIMING = {"time", "seconds", "train_seconds", "images_per_second", "loading_percent"}


def command(recipe: Path, out: Path) -> list[str]:
    words = ["-m", "harness", "train", str(recipe), "--seed", "4", "--out", str(out), "--tracking", "none"]
    return [sys.executable, *words]


def start(recipe: Path, out: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command(recipe, out), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_events(out: Path, n: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        found = list(out.glob("*/record.jsonl"))
        if found and sum(e["event"] == "evaluation" for e in read_events(found[0].parent)) >= n:
            return
        time.sleep(0.01)
    raise AssertionError(f"the run ended or hung before evaluation {n}: {process.communicate()[0][-2000:]}")


def only_run(out: Path) -> Path:
    (run_dir,) = [p.parent for p in out.glob("*/record.jsonl")]
    return run_dir


def outcome(run_dir: Path) -> dict[str, Any]:
    """Everything a run leaves, but for times."""

    def strip(facts: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in facts.items() if k not in TIMING}

    result = json.loads((run_dir / "result.json").read_text())
    events = [strip(e) for e in read_events(run_dir)]
    tensors = {
        f"{name} {key}": hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for name in ("weights", "masks")
        for key, tensor in load_file(run_dir / f"{name}.safetensors").items()
    }
    return {"result": strip(result), "events": events, "tensors": tensors}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "east_small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("undisturbed")
    process = start(recipe, out)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return outcome(only_run(out))


def test_sigterm_saves_and_leaves_with_75(recipe: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    process = start(recipe, tmp_path)
    wait_for_events(tmp_path, 3, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert "saved: the same command continues it" in output
    again = start(recipe, tmp_path)
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    assert outcome(only_run(tmp_path)) == undisturbed
