"""SIGKILL at any moment of a run, several times: the same command ends with the same record, to the last bit."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.resume.test_kill import outcome
from tests.resume.traps import POINTS, run_with_trap

pytestmark = pytest.mark.slow

LENET = {
    "model": {"name": "lenet_300_100"}, "data": {"name": "digits", "batch_size": 128, "pad": 1},
    "schedule": {"epochs": 3}, "engine": {"device": "cpu"},
    "evaluation": {"every_epochs": 0.3, "checkpoint_seconds": 0},
}  # fmt: skip
RUNS: dict[str, dict[str, Any]] = {
    "rigl": {**LENET, "method": {"name": "rigl", "density": 0.1, "interval": 4}},
    "snfs": {**LENET, "method": {"name": "snfs", "density": 0.1, "interval": 4}},
    "dst": {**LENET, "method": {"name": "dst", "alpha": 0.05}},
    "imp": {**LENET, "method": {"name": "imp", "density": 0.7}, "schedule": {"epochs": 1}},
    # every part, so that a kill can fall into a cycle and into the phase-out, and at the step DyReLU goes
    "east": {
        **LENET,
        "model": {"name": "resnet34", "width": 4},
        "method": {
            "name": "east", "density": 0.05, "interval": 6, "dyrelu": {"start_epoch": 1, "end_epoch": 2},
            "cyclic": {"n_cycles": 2, "cycle_epochs": 1, "interval": 3},
        },
        "optimizer": {"lr": 0.1, "ema_decay": 0.9},
    },
}  # fmt: skip
traps = st.lists(st.tuples(st.sampled_from(POINTS), st.integers(1, 12)), min_size=1, max_size=3)


@cache
def undisturbed(name: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        assert run_with_trap(RUNS[name], Path(folder), None) == 0
        return outcome(Path(folder))


@pytest.mark.parametrize("name", RUNS)
@example(laid=[(point, 2) for point in POINTS])
@given(laid=traps)
@settings(max_examples=1, deadline=None, derandomize=True, database=None)
def test_killed_anywhere(name: str, laid: list[tuple[str, int]]) -> None:
    with TemporaryDirectory() as folder:
        out = Path(folder)
        for trap in laid:
            assert run_with_trap(RUNS[name], out, trap) in (0, -9)
            for path in out.glob("*/result.json"):
                assert json.loads(path.read_text())["status"] == "done"
        assert run_with_trap(RUNS[name], out, None) == 0
        assert outcome(out) == undisturbed(name)
        (run_dir,) = [p.parent for p in out.glob("*/result.json")]
        left = {p.name for p in run_dir.iterdir()}
        assert left == {
            "config.yaml",
            "record.jsonl",
            "result.json",
            "masks.safetensors",
            "weights.safetensors",
            ".lock",
        }
