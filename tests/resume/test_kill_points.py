"""SIGKILL at any moment of a run, several times: the same command ends with the same record, to the last bit."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.data.test_folder import make_tree
from tests.resume.test_kill import only_run, outcome
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
    "rigl on two ranks under ZeRO-1": {
        **LENET,
        "method": {"name": "rigl", "density": 0.1, "interval": 4},
        "engine": {"device": "cpu", "name": "deepspeed", "zero_stage": 1, "workers": 2},
    },
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
OF_MASKS = "layer of an update"
WITHOUT_UPDATES = ("dst", "imp")
"""No method sets their masks in the middle of a round."""


@cache
def undisturbed(name: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        assert run_with_trap(RUNS[name], Path(folder), None) == 0
        return outcome(only_run(Path(folder)))


def check_that_it_ends_the_same(name: str, out: Path) -> None:
    assert run_with_trap(RUNS[name], out, None) == 0
    run_dir = only_run(out)
    assert outcome(run_dir) == undisturbed(name)
    left = {"config.yaml", "record.jsonl", "result.json", "masks.safetensors", "weights.safetensors", ".lock"}
    assert {p.name for p in run_dir.iterdir()} == left


@pytest.mark.parametrize("name", RUNS)
def test_killed_at_every_kind_of_moment(name: str, tmp_path: Path) -> None:
    """One after another, the second time a run comes by; there is one result."""
    for point in POINTS:
        if point == OF_MASKS and name in WITHOUT_UPDATES:
            continue
        assert run_with_trap(RUNS[name], tmp_path, (point, 1 if "result" in point else 2)) == -9, point
        for path in tmp_path.glob("*/result.json"):
            assert json.loads(path.read_text())["status"] == "done"
    check_that_it_ends_the_same(name, tmp_path)


@pytest.mark.parametrize("name", RUNS)
def test_killed_at_random_moments(name: str, tmp_path: Path) -> None:
    draw = random.Random(name)
    n_kills = 0
    while n_kills < 3:
        code = run_with_trap(RUNS[name], tmp_path, (draw.choice(POINTS[:6]), draw.randint(1, 5)))
        assert code in (0, -9)
        if code == 0:  # it ended before
            break
        n_kills += 1
    assert n_kills > 0
    check_that_it_ends_the_same(name, tmp_path)


@pytest.mark.parametrize("loader", ["dali", "torchvision"])
def test_killed_inside_an_epoch_of_image_files(loader: str, tmp_path: Path) -> None:
    """Five steps an epoch, saved after every second; killed at step 4 of the first epoch and step 3 of the second."""
    plain = {
        "model": {"name": "lenet_300_100"}, "method": {"name": "rigl", "density": 0.1, "interval": 3},
        "data": {
            "name": "imagefolder", "folder": "pets", "root": str(make_tree(tmp_path)), "image_size": 24,
            "batch_size": 4, "flip": True, "validation_fraction": 0.25, "loader": loader,
        },
        "schedule": {"epochs": 3}, "engine": {"device": "cpu"},
        "evaluation": {"every_epochs": 0.4, "checkpoint_seconds": 0},
    }  # fmt: skip
    assert run_with_trap(plain, tmp_path / "parts", ("step", 4)) == -9
    assert run_with_trap(plain, tmp_path / "parts", ("step", 6)) == -9  # from step 2 on
    for out in ("parts", "whole"):
        assert run_with_trap(plain, tmp_path / out, None) == 0
    assert outcome(only_run(tmp_path / "parts")) == outcome(only_run(tmp_path / "whole"))
