"""What a few seeds can tell about a mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import mean, stdev


def paired(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """95 % interval of the mean of differences, and the p-value of its being 0.

    None, None, None below two values, and where all are the same: accuracies come in whole images, so a few seeds may
    well agree, and no spread was seen to judge by.
    """
    n = len(values)
    if n < 2:
        return None, None, None
    from scipy.special import stdtr, stdtrit

    middle, error = mean(values), stdev(values) / math.sqrt(n)
    if error == 0:
        return None, None, None
    reach = float(stdtrit(n - 1, 0.975)) * error
    return middle - reach, middle + reach, float(2 * stdtr(n - 1, -abs(middle) / error))


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean (Student's t); None below two values, and where all are the same."""
    low, high, _ = paired(values)
    return (low, high) if low is not None and high is not None else None


@cache
def bootstrap(values: tuple[float, ...], n_draws: int = 10_000) -> tuple[float, float] | None:
    """95 % percentile interval of the mean over bootstrap draws, always the same ones; None below two values.

    With few seeds it is too narrow: it stands beside Student's, not in its place.
    """
    if len(values) < 2:
        return None
    import numpy as np

    held = np.asarray(values)
    draws = np.random.default_rng(0).integers(0, len(held), (n_draws, len(held)))
    low, high = np.quantile(held[draws].mean(1), [0.025, 0.975])
    return float(low), float(high)


def power(effect: float, n: int, alpha: float = 0.05) -> float:
    """Of the two-sided paired t-test with n pairs, for a mean difference of `effect` standard deviations."""
    from scipy.special import nctdtr, stdtrit

    critical, away = float(stdtrit(n - 1, 1 - alpha / 2)), effect * math.sqrt(n)
    return float(1 - nctdtr(n - 1, away, critical) + nctdtr(n - 1, away, -critical))


REACH = 1.959964 + 0.841621
"""Quantiles of the normal distribution for 5 %, two-sided, and 80 %."""


def seeds_needed(values: Sequence[float], most: int = 1000) -> int | None:
    """Pairs in all for 80 % power at 5 %, if the mean and spread of these differences are the true ones.

    None below two values, for differences of mean 0 or without spread, and where `most` would not do.
    """
    if len(values) < 2 or mean(values) == 0:
        return None
    spread = stdev(values)
    if spread == 0:
        return None
    effect = abs(mean(values)) / spread
    if effect < REACH / math.sqrt(most):  # of the normal distribution: a little below what Student's needs
        return None
    n = max(2, int((REACH / effect) ** 2))
    while power(effect, n) < 0.8:
        n += 1
    return n


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, so_far = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = so_far
    return corrected
