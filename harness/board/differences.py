"""One method less another, seed by seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import mean

from harness.board.rows import Row
from harness.board.statistics import holm, paired


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

    p_holm: float | None = None
    """The same, corrected for all differences that are shown together (Holm)."""


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
    return with_holm(found)


def with_holm(found: list[Difference]) -> list[Difference]:
    """Corrected over those that have a p-value."""
    corrected = iter(holm([d.p for d in found if d.p is not None]))
    return [replace(d, p_holm=next(corrected)) if d.p is not None else d for d in found]
