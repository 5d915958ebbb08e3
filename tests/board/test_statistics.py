from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from harness.board.differences import Difference, differences, with_holm
from harness.board.rows import rows_from_results
from harness.board.statistics import bootstrap, interval, paired, power, seeds_needed
from tests.board.made import results


def test_by_hand() -> None:
    # differences .1, .2, .3: mean .2, standard error .1 / sqrt(3), t(.975, 2) = 4.3027
    low, high, _ = paired([0.1, 0.2, 0.3])
    assert (low, high) == pytest.approx((0.2 - 4.3027 * 0.057735, 0.2 + 4.3027 * 0.057735), abs=1e-5)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=12))
def test_against_scipy(pairs: list[tuple[float, float]]) -> None:
    values = [a - b for a, b in pairs]
    if max(values) - min(values) < 1e-6:
        return
    expected = ttest_rel([a for a, _ in pairs], [b for _, b in pairs])
    interval = expected.confidence_interval(0.95)
    low, high, p = paired(values)
    assert (low, high, p) == pytest.approx((interval.low, interval.high, expected.pvalue), abs=1e-9)


def test_one_seed_has_no_interval() -> None:
    assert paired([0.1]) == (None, None, None)
    assert paired([0.1, 0.1]) == (None, None, None), "no spread was seen"


def test_rows_are_compared_by_the_seeds_they_share() -> None:
    rows = rows_from_results(
        results("rigl", 0.01, {0: 0.5, 1: 0.6, 2: 0.7})
        + results("east", 0.01, {1: 0.7, 2: 0.9, 5: 0.1})
        + results("east", 0.02, {0: 0.9})
        + results("dense", 1.0, {1: 0.8, 2: 0.9})
    )
    (found,) = differences(rows, "rigl")
    assert (found.method, found.density, found.seeds) == ("east", 0.01, (1, 2))
    assert found.mean == pytest.approx(0.15)
    against_dense = {(d.method, d.density): d.mean for d in differences(rows, "dense")}
    assert against_dense == {("east", 0.01): pytest.approx(-0.05), ("rigl", 0.01): pytest.approx(-0.2)}
    assert differences(rows, "nothing") == []


def test_holm_by_hand() -> None:
    """p .01, .04, .03 of three: .03, then .03 * 2 = .06, then max(.06, .04)."""
    found = [Difference("a", "b", 0.1, ("", ""), (0, 1), 0.0, 0.0, 0.0, p) for p in (0.01, 0.04, 0.03, None)]
    assert [d.p_holm for d in with_holm(found)] == [pytest.approx(0.03), pytest.approx(0.06), pytest.approx(0.06), None]


def test_intervals_of_a_mean() -> None:
    values = (0.1, 0.2, 0.3, 0.4, 0.5)
    assert interval(values) == pytest.approx((0.3 - 2.7764 * 0.0707107, 0.3 + 2.7764 * 0.0707107), abs=1e-5)
    low, high = bootstrap(values) or (0.0, 0.0)
    # the standard error that draws with replacement have is the spread over n, not n - 1, over the root of n
    assert (low, high) == pytest.approx((0.3 - 1.96 * 0.0632, 0.3 + 1.96 * 0.0632), abs=0.01)
    assert bootstrap(values) == bootstrap(values)
    assert interval([0.1]) is None
    assert bootstrap((0.1,)) is None


def test_power_of_a_paired_test() -> None:
    """Cohen's tables: an effect of .5 needs 34 pairs for 80 %, one of .8 needs 15; without an effect it is the 5 %."""
    assert power(0.5, 33) < 0.8 <= power(0.5, 34)
    assert power(0.8, 14) < 0.8 <= power(0.8, 15)
    assert power(0.0, 10) == pytest.approx(0.05)


def test_seeds_that_would_be_needed() -> None:
    # mean 1, standard deviation 2: an effect of .5
    assert seeds_needed([1 - math.sqrt(2), 1 + math.sqrt(2)]) == 34
    assert seeds_needed([-1 + math.sqrt(2), -1 - math.sqrt(2)]) == 34
    assert seeds_needed([0.1, 0.1, 0.1]) is None
    assert seeds_needed([-0.0052, -0.0084, -0.0089]) == 3 + (power(3.7342, 3) < 0.8)
    assert seeds_needed([1.0, 1.0001]) == 2
    assert seeds_needed([0.1, -0.1]) is None, "no difference is seen"
    assert seeds_needed([1e-9, 1.0, -1.0]) is None, "more than anyone would run"
    assert seeds_needed([-1.0, 1.0, 1.7e-246]) is None, "a number that no float holds"
    assert seeds_needed([0.3]) is None
