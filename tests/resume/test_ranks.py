"""Two ranks killed in the middle of a cycle, of the phase-out and after both, and started again: nothing differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.track.record import read_events
from tests.distributed.processes import run_ranks
from tests.resume.test_kill import RECIPE, outcome

pytestmark = pytest.mark.slow

ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"workers": 2},
    "zero stage 1": {"name": "deepspeed", "zero_stage": 1, "workers": 2},
    "zero stage 2": {"name": "deepspeed", "zero_stage": 2, "workers": 2},
}
NEVER = -1


@pytest.mark.parametrize("engine", ENGINES)
def test_killed_in_cycle_and_phase_out(engine: str, tmp_path: Path) -> None:
    recipe = tmp_path / "east_small.yaml"
    # two stages are enough to share weights in, and as fast as starting processes is slow
    recipe.write_text(
        RECIPE.replace("{name: resnet34, width: 4}", "{name: 'tests.distributed.steps:two_stages', width: 8}")
    )

    def train(out: str, killed_at: int) -> list[int]:
        words = ["-m", "tests.resume.ranks", str(recipe), json.dumps(ENGINES[engine]), str(tmp_path / out)]
        outcomes = run_ranks([*words, str(killed_at)], 2)
        assert killed_at != NEVER or [code for code, _ in outcomes] == [0, 0], outcomes[0][1][-3000:]
        return [code for code, _ in outcomes]

    train("whole", NEVER)
    # continues from five steps before; ten steps are an epoch.
    # 30: half-way through the second cycle and the phase-out; 50: the cycles over, and DyReLU about to go
    for killed_at in (35, 55):
        assert train("parts", killed_at) == [-9, -9]
    train("parts", NEVER)
    whole, parts = outcome(tmp_path / "whole"), outcome(tmp_path / "parts")
    assert parts == whole

    (run_dir,) = (tmp_path / "whole").iterdir()
    evaluated = {e["step"]: e for e in read_events(run_dir) if e["event"] == "evaluation"}
    target = evaluated[80]["n_active"]
    assert [evaluated[step]["n_active"] > target for step in (10, 30, 50)] == [True, True, False]
    assert [evaluated[step]["dyrelu_beta"] for step in (10, 30, 50, 65)] == [1, 0.75, 0.25, 0]
