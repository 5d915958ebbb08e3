"""How long a suite will take: what is measured, what follows from it for other lengths, and how runs fill slots."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from harness.config import Cell, build_config
from harness.config.schema import RunConfig
from harness.track.record import facts_of, write_result
from harness.train.cost import Cost, measure_cost
from harness.tune.estimate import Estimate
from harness.tune.progress import RunsLook


def config_of(epochs: float, method: dict[str, Any]) -> RunConfig:
    plain = {
        "model": {"name": "lenet_300_100"}, "data": {"name": "digits", "batch_size": 100},
        "schedule": {"epochs": epochs}, "engine": {"device": "cpu"}, "method": method,
    }  # fmt: skip
    return build_config(plain, "test")


def test_the_cost_of_a_run_follows_its_steps_its_rounds_and_its_evaluations() -> None:
    cost = Cost(start_s=2.0, step_s=0.1, image_s=0.01, sizes={"train": 1_000, "validation": 50, "test": 200})
    # 10 steps an epoch; an evaluation of 50 images after each, the test set at the end
    assert cost.of(config_of(3, {"name": "dense"})) == pytest.approx(2 + 30 * 0.1 + (3 * 50 + 200) * 0.01)
    # a half is two prunings by a third more than one: log(.5) / log(2 / 3) = 1.7, so three rounds
    imp = {"name": "imp", "density": 0.5, "fraction": 1 / 3}
    assert cost.of(config_of(3, imp)) == pytest.approx(2 + 90 * 0.1 + (9 * 50 + 200) * 0.01)


def test_measuring_trains_a_little_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cost = measure_cost(config_of(0.2, {"name": "snip", "density": 0.1}), 0, seconds=0.1)
    assert min(cost.start_s, cost.step_s, cost.image_s) > 0
    assert sum(cost.sizes.values()) == 1_797
    assert not list(tmp_path.glob("tmp*"))  # torch keeps a folder of its own there


def test_runs_start_where_one_ends_first() -> None:
    # two slots: 5 | 3, then 2 beside the 5, then 4 where both are free: 5 + 4
    assert Estimate((5.0, 3.0, 2.0, 4.0), 2).wall_s == 9
    assert Estimate((5.0,), 4).wall_s == 5


def test_a_suite_is_as_far_as_its_time_not_as_its_runs(tmp_path: Path) -> None:
    cells = [Cell(config_of(epochs, {"name": "dense"}), 0) for epochs in (1, 9)]
    look = RunsLook(cells, tmp_path)
    done = tmp_path / cells[0].run_id
    done.mkdir()
    write_result(done, {**facts_of(cells[0].config, 0), "status": "done"})
    assert (look().share, look().left_s) == (0.5, None)
    look.expect(Estimate((10.0, 90.0), 1))
    seen = look()
    assert (seen.share, seen.left_s) == (pytest.approx(0.1), pytest.approx(90))
    assert seen.head == "1/2 runs"
