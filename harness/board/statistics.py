"""What seeds can tell: differences by seed, and their interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from harness.board.rows import Row


@dataclass(frozen=True, slots=True)
class Difference:
    """Accuracy of one row less that of another, seed by seed; 0 to 1. No interval is given for fewer than two seeds."""

    method: str
    against: str
    density: float
    fingerprints: tuple[str, str]
    seeds: tuple[int, ...]
    mean: float
    low: float | None
    """Ends of the 95 % interval of the mean difference (Student's t)."""

    high: float | None
    p: float | None
    """Two-sided paired t-test."""


def paired(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """95 % interval of the mean of differences, and the p-value of its being 0; None, None, None below two values.

    Differences that are all the same have an interval of one point.
    """
    n = len(values)
    if n < 2:
        return None, None, None
    from scipy.stats import t

    middle, error = mean(values), stdev(values) / math.sqrt(n)
    if error == 0:
        return middle, middle, 1.0 if middle == 0 else 0.0
    reach = float(t.ppf(0.975, n - 1)) * error
    return middle - reach, middle + reach, float(2 * t.sf(abs(middle) / error, n - 1))


def differences(rows: list[Row], against: str) -> list[Difference]:
    """Every row against the row of that method at the same data set, model and density (or the dense one's), by the
    seeds they share."""
    found = []
    for row in rows:
        for other in rows:
            same = (row.data, row.model) == (other.data, other.model) and row.fingerprint != other.fingerprint
            if not same or other.method != against or not (other.density == row.density or other.density == 1.0):
                continue
            mine, theirs = (dict(zip(r.seeds, r.accuracies, strict=True)) for r in (row, other))
            seeds = tuple(sorted(set(mine) & set(theirs)))
            if not seeds:
                continue
            values = [mine[s] - theirs[s] for s in seeds]
            low, high, p = paired(values)
            found.append(
                Difference(
                    method=row.method, against=against, density=row.density, seeds=seeds, mean=mean(values), low=low,
                    high=high, p=p, fingerprints=(row.fingerprint, other.fingerprint),
                )
            )  # fmt: skip
    return found
