"""Two ranks killed in the middle of a cycle, of the phase-out and after both, and started again: nothing differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from harness.track.record import read_events
from tests.distributed.processes import run_ranks
from tests.resume.test_kill import RECIPE, only_run, outcome
from tests.resume.test_methods import METHODS

pytestmark = pytest.mark.slow

ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"workers": 2},
    "zero stage 1": {"name": "deepspeed", "zero_stage": 1, "workers": 2},
    "zero stage 2": {"name": "deepspeed", "zero_stage": 2, "workers": 2},
}
NEVER = -1


LENET = """
model: {name: lenet_300_100}
data: {name: digits, batch_size: 240}
method: {name: rigl, density: 0.1, interval: 4}
schedule: {epochs: 6}
evaluation: {checkpoint_seconds: 0}
"""


def test_continued_on_other_numbers_of_workers(tmp_path: Path) -> None:
    """Batches do not depend on ranks: two ranks under ZeRO-1, then one process, then two of torch end with the masks of
    one process alone, and with its weights but for rounding."""
    recipe = tmp_path / "lenet.yaml"
    recipe.write_text(LENET)

    def train(out: str, engine: dict[str, Any], killed_at: int) -> None:
        words = str(recipe), json.dumps(engine), str(tmp_path / out), str(killed_at)
        outcomes = run_ranks(engine.get("workers", 1), "tests.resume.ranks", *words)
        assert {code for code, _ in outcomes} == {0 if killed_at == NEVER else -9}, outcomes[0][1][-3000:]

    train("whole", {}, NEVER)
    train("parts", ENGINES["zero stage 1"], 15)
    train("parts", {}, 20)
    train("parts", ENGINES["ddp"], NEVER)
    (whole,), (parts,) = (list((tmp_path / out).iterdir()) for out in ("whole", "parts"))
    one, other = load_file(whole / "masks.safetensors"), load_file(parts / "masks.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)
    one, other = load_file(whole / "weights.safetensors"), load_file(parts / "weights.safetensors")
    for name, weights in one.items():
        torch.testing.assert_close(other[name], weights, rtol=1e-3, atol=1e-4)
    losses = [[e["train_loss"] for e in read_events(d) if e["event"] == "evaluation"] for d in (whole, parts)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_every_method_stopped_and_continued_on_zero_1(tmp_path: Path) -> None:
    outcomes = run_ranks(2, "tests.resume.every_method", str(tmp_path))
    assert [code for code, _ in outcomes] == [0, 0], outcomes[0][1][-3000:]
    assert "NOT STOPPED" not in outcomes[0][1]
    for name in METHODS:
        whole, parts = (only_run(tmp_path / out / name) for out in ("whole", "parts"))
        assert outcome(parts) == outcome(whole), name


@pytest.mark.parametrize("engine", ["zero stage 1", "zero stage 2"])
def test_killed_in_cycle_and_phase_out(engine: str, tmp_path: Path) -> None:
    recipe = tmp_path / "east_small.yaml"
    # two stages are enough to share weights in, and as fast as starting processes is slow
    recipe.write_text(
        RECIPE.replace("{name: resnet34, width: 4}", "{name: 'tests.distributed.steps:two_stages', width: 8}")
    )

    def train(out: str, killed_at: int) -> list[int]:
        words = str(recipe), json.dumps(ENGINES[engine]), str(tmp_path / out), str(killed_at)
        outcomes = run_ranks(2, "tests.resume.ranks", *words)
        assert killed_at != NEVER or [code for code, _ in outcomes] == [0, 0], outcomes[0][1][-3000:]
        return [code for code, _ in outcomes]

    train("whole", NEVER)
    # continues from five steps before; ten steps are an epoch.
    # 30: half-way through the second cycle and the phase-out; 50: the cycles over, and DyReLU about to go
    for killed_at in (35, 55):
        assert train("parts", killed_at) == [-9, -9]
    train("parts", NEVER)
    whole, parts = outcome(only_run(tmp_path / "whole")), outcome(only_run(tmp_path / "parts"))
    assert parts == whole

    (run_dir,) = (tmp_path / "whole").iterdir()
    evaluated = {e["step"]: e for e in read_events(run_dir) if e["event"] == "evaluation"}
    target = evaluated[80]["n_active"]
    assert [evaluated[step]["n_active"] > target for step in (10, 30, 50)] == [True, True, False]
    assert [evaluated[step]["dyrelu_beta"] for step in (10, 30, 50, 65)] == [1, 0.75, 0.25, 0]
