"""The search for a density: where it halves, when it stops, what it says when the density is out of reach."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.tune.match import match_density


@pytest.mark.parametrize("slope", [-1, 1])
def test_it_halves_in_the_logarithm_until_near(slope: int) -> None:
    asked: list[float] = []

    def measure(value: float) -> float:
        asked.append(value)
        return 0.1 * value**slope

    tried = list(match_density(measure, 0.1, 0.01, 10.0, 20, 0.05))
    assert asked[:3] == pytest.approx([0.01, 10, 0.01**0.5 * 10**0.5])
    assert tried[-1].density == pytest.approx(0.1, rel=0.05)
    assert all(abs(t.density / 0.1 - 1) > 0.05 for t in tried[:-1])


def test_it_stops_after_the_runs_it_has() -> None:
    assert len(list(match_density(lambda v: 0.1 / v, 0.0999, 0.01, 10.0, 4, 1e-9))) == 4


def test_a_density_out_of_reach() -> None:
    with pytest.raises(HarnessError, match=r"density 0.5 is not between what comes out at 1 \(0.1\) and at 2 \(0.05\)"):
        list(match_density(lambda v: 0.1 / v, 0.5, 1.0, 2.0, 10, 0.05))


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "model: {name: lenet_300_100}\ndata: {name: digits, batch_size: 64}\nmethod: {name: dst}\n"
        "optimizer: {lr: 0.1, weight_decay: 0.0}\nschedule: {epochs: 3, law: constant}\nengine: {device: cpu}\n"
    )
    words = [sys.executable, "-m", "harness", "match", str(recipe), "--density", "0.3", "--low", "1e-4",
             "--high", "1e-1", "--tolerance", "0.3", "--out", str(tmp_path / "runs"), "--tracking", "none"]  # fmt: skip
    env = {**os.environ, "COLUMNS": "200"}
    found = subprocess.run(words, capture_output=True, text=True, env=env, timeout=300)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "a search: up to 10 full runs" in found.stdout
    last = found.stdout.strip().splitlines()[-1]
    density = re.search(r"after \d+ full runs: method.alpha=\S+ leaves (\S+), within 30 % of 0.3", last)
    assert density and 0.21 <= float(density[1]) <= 0.39
    again = subprocess.run(words, capture_output=True, text=True, env=env, timeout=300)
    assert again.stdout.strip().splitlines()[-1] == last
    assert "is already done" in again.stdout
