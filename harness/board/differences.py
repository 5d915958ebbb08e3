"""One method less another, seed by seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import mean

from harness.board.rows import Row, tables_of
from harness.board.statistics import holm, paired, seeds_needed


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

    needed: int | None = None
    """Seeds that would show a difference of this size and spread, with 80 % power at 5 %; None where none is seen."""

    p_holm: float | None = None
    """The same, corrected for all differences that are shown together (Holm)."""


def between(row: Row, other: Row) -> Difference | None:
    """By the seeds they share; None where they share none."""
    mine, theirs = (dict(zip(r.seeds, r.accuracies, strict=True)) for r in (row, other))
    seeds = tuple(sorted(set(mine) & set(theirs)))
    if not seeds:
        return None
    values = [mine[s] - theirs[s] for s in seeds]
    low, high, p = paired(values)
    return Difference(
        method=row.method, against=other.method, density=row.density, seeds=seeds, mean=mean(values), low=low,
        high=high, p=p, needed=seeds_needed(values), fingerprints=(row.fingerprint, other.fingerprint),
    )  # fmt: skip


def differences(rows: list[Row], against: str) -> list[Difference]:
    """Every row against the rows of that method in its table and at its density (or the dense one's)."""
    pairs = [
        (row, other)
        for table in tables_of(rows) for row in table for other in table
        if other.method == against and other is not row and other.density in (row.density, 1.0)
    ]  # fmt: skip
    return with_holm([d for row, other in pairs if (d := between(row, other)) is not None])


def with_holm(found: list[Difference]) -> list[Difference]:
    """Corrected over those that have a p-value."""
    corrected = iter(holm([d.p for d in found if d.p is not None]))
    return [replace(d, p_holm=next(corrected)) if d.p is not None else d for d in found]
