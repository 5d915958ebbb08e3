"""Benchmarks at their smallest sizes: that they run and what they leave, not how fast. The suite times nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import NAMES
from benchmarks.figures import Figure, ratios, take_turns
from benchmarks.report import lines
from benchmarks.scale import limits_of, simulate

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_smoke(name: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks", name, "--smoke", "--json", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / f"{name}.json").read_text())
    assert written["command"] == f"python -m benchmarks {name} --smoke"
    assert written["device"]
    assert written["figures"]
    for figure in written["figures"].get("figures", ()):
        assert figure["least"] <= figure["median"] <= figure["most"]
        assert figure["met"] in ("", "goal", "stretch", "missed")


@pytest.mark.parametrize(
    ("value", "at_least", "met"),
    [(1.0, True, "stretch"), (0.97, True, "goal"), (0.9, True, "missed"),
     (0.9, False, "stretch"), (0.97, False, "goal"), (1.0, False, "missed")],
)  # fmt: skip
def test_a_figure_stands_beside_its_goal(value: float, at_least: bool, met: str) -> None:
    goal, stretch = (0.95, 0.98) if at_least else (0.98, 0.95)
    assert Figure("ratio", (0.0, value, 9.0), goal, stretch, at_least).met == met
    assert Figure("ratio", (value,)).met == ""


def test_contenders_take_turns_and_one_turn_before_does_not_count() -> None:
    turns: list[str] = []
    taken = take_turns({name: lambda name=name: turns.append(name) for name in "abc"}, rounds=3)
    assert "".join(turns) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 3, "b": 3, "c": 3}
    assert ratios([2.0, 6.0], [1.0, 2.0]) == (2.0, 3.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: it would be measured")
def test_without_a_gpu_nothing_is_told_of_one() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks", "gpu"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == "benchmarks: the benchmark gpu needs a GPU, torch sees none"


def test_the_table_in_the_docs_is_that_of_the_records() -> None:
    said = (ROOT / "docs" / "performance.md").read_text()
    held = list(lines(ROOT / "results" / "benchmarks"))
    assert len(held) > 20
    assert "\n".join(held).strip() in said


def test_the_simulated_driver_is_one_server() -> None:
    """Against what can be said without simulating: nothing to wait for, and more GPUs than the driver can serve."""
    free = simulate(64, cell_s=100.0, driver_s=0.0, start_s=0.0)
    assert 0.95 < free["busy"] <= 1.0
    slow = simulate(1000, cell_s=10.0, driver_s=0.1, start_s=0.0)
    assert slow["cells_per_s"] == pytest.approx(10.0, rel=0.01), "a tenth of a second each"
    assert slow["driver"] == pytest.approx(1.0, rel=0.01)
    assert slow["busy"] == pytest.approx(10.0 * 10.0 / 1000, rel=0.01)
    assert limits_of(8)["ring_ms_fast"] < 1 < limits_of(64)["ring_ms_fast"]
