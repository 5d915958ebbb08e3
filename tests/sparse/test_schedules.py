from __future__ import annotations

import pytest

from harness.sparse.schedules import Clock, CosineDrop, Rate


# east.md section 1.2
@pytest.mark.parametrize(("step", "expected"), [(4_000, 0.49748), (44_000, 0.25250), (88_000, 0.005)])
def test_drop_fraction_of_the_paper(step: int, expected: float) -> None:
    assert CosineDrop(start=0.5, end=0.005, until=88_000).at(step) == pytest.approx(expected, abs=5e-6)


def test_the_drop_fraction_of_rigl() -> None:
    """alpha / 2 (1 + cos(pi t / T_end)): .3 at the start, .15 half-way, nothing at the end."""
    drop = CosineDrop(start=0.3, end=0.0, until=25_000)
    assert [drop.at(0), drop.at(12_500), drop.at(25_000), drop.at(32_000)] == pytest.approx([0.3, 0.15, 0, 0])


def test_steps_divide_the_rate_after_each_milestone() -> None:
    rate = Rate(base=0.1, law="step", total_steps=100, milestone_steps=(50, 75))
    assert [rate.at(k) for k in (0, 49, 50, 74, 75, 99)] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_cosine_with_warm_up() -> None:
    rate = Rate(base=1.0, law="cosine", total_steps=110, warmup_steps=10)
    assert [rate.at(k) for k in (0, 4, 9, 10, 60, 109)] == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5, 0.000247], abs=1e-6)


def test_epochs_are_counted_from_one() -> None:
    clock = Clock(total_steps=88_000, steps_per_epoch=352)
    assert [clock.epoch(k) for k in (0, 351, 352, 87_999)] == [1, 1, 2, 250]
    assert clock.epochs == 250
