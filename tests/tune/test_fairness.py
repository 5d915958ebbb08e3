from __future__ import annotations

from itertools import product
from statistics import mean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.tune.fairness import compare, expected_best


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_against_every_draw_there_is(values: list[float]) -> None:
    for n, (high, low) in enumerate(zip(expected_best(values), expected_best(values, maximise=False), strict=True), 1):
        assert high == pytest.approx(mean(max(draw) for draw in product(values, repeat=n)))
        assert low == pytest.approx(mean(min(draw) for draw in product(values, repeat=n)))


def test_by_hand() -> None:
    # two of .5 and one of .8: the first of one trial is .6 on average; of two, .8 with probability 5/9
    assert expected_best([0.5, 0.8, 0.5])[:2] == pytest.approx([0.6, 0.5 * 4 / 9 + 0.8 * 5 / 9])
    assert expected_best([]) == []


def test_the_best_comes_first_whichever_way_is_better() -> None:
    def summary(name: str, value: float, direction: str) -> dict[str, Any]:
        return {
            "name": name, "n_trials": 1, "train_seconds": 1.0, "gpu_hours": 0.0, "train_flops": 1.0, "best": 0,
            "objectives": [{"metric": "m", "direction": direction}],
            "trials": [{"state": "complete", "values": [value]}],
            "confirmed": [{"number": 0, "mean": value, "std": None, "values": [value]}],
        }  # fmt: skip

    for direction, first in (("maximize", "high"), ("minimize", "low")):
        lines = compare([summary("low", 0.1, direction), summary("high", 0.9, direction)])
        assert lines[0]["study"] == first
