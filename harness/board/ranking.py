"""Who is ahead, and whether the runs show it: ranks with ties, tests against the best, ranks over many tables."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from harness.board.differences import Difference, between, with_holm
from harness.board.rows import Convention, Row, tables_of
from harness.board.statistics import interval

ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Standing:
    """Of a row among those of its table and density that have an interval."""

    rank: int
    """1 + the number of rows whose whole 95 % interval lies above this one's: rows whose intervals overlap tie."""

    best: bool
    """Ahead of every other one in a paired test by seed, corrected (Holm), at 5 %."""


def cells_of_table(table: Iterable[Row]) -> dict[float, list[Row]]:
    """Rows of one table at the densities that were asked for; one whose density came out is comparable to none."""
    cells: dict[float, list[Row]] = defaultdict(list)
    for row in table:
        if not row.emergent and row.accuracies:
            cells[row.density].append(row)
    return cells


def standings(table: list[Row]) -> dict[str, Standing]:
    """By fingerprint, for the rows of one table that share their density with another one."""
    found: dict[str, Standing] = {}
    for cell in cells_of_table(table).values():
        ends = {row.fingerprint: interval(row.accuracies) for row in cell}
        known = [row for row in cell if ends[row.fingerprint] is not None]
        if len(known) < 2:
            continue
        best = best_of(cell)
        for row in known:
            high = (ends[row.fingerprint] or (0.0, 0.0))[1]
            above = sum((ends[other.fingerprint] or (0.0, 0.0))[0] > high for other in known)
            found[row.fingerprint] = Standing(1 + above, row is best)
    return found


def best_of(cell: list[Row]) -> Row | None:
    """The row ahead of each other one beyond chance; None where the runs do not show one."""
    first, *others = sorted(cell, key=lambda r: -(r.mean or 0))
    found = with_holm([d for other in others if (d := between(first, other)) is not None])
    shown = len(found) == len(others) and all(d.p_holm is not None and d.p_holm < ALPHA and d.mean > 0 for d in found)
    return first if shown and others else None


def gaps(table: list[Row], against: str, also: Iterable[Row] = ()) -> dict[str, Difference]:
    """Every row less the row of a method at the same density (or the dense one's), by fingerprint; corrected together.

    also: dense rows of other tables that may be compared to. Of several rows of that method the one that shares the
    most seeds is the one to compare with.
    """
    found, pool = [], [*table, *also]
    for row in table:
        others = [o for o in pool if o.method == against and o is not row and o.density in (row.density, 1.0)]
        others.sort(key=lambda o: (o.density != row.density, -len({*o.seeds} & {*row.seeds})))
        difference = between(row, others[0]) if others else None
        if difference is not None:
            found.append(difference)
    return {d.fingerprints[0]: d for d in with_holm(found)}


@dataclass(frozen=True, slots=True)
class CriticalDifference:
    """Mean ranks of methods over cells (table and density), and how far apart they must be (Demsar 2006)."""

    methods: tuple[str, ...]
    mean_ranks: tuple[float, ...]
    """1 is best; in the order of methods, rising."""

    n_cells: int
    p: float
    """Friedman's test of all methods being alike."""

    distance: float
    """Nemenyi's critical difference at 5 %."""

    left_out: tuple[str, ...]
    """Methods that miss some of the cells."""

    @property
    def groups(self) -> list[tuple[int, int]]:
        """First and last of each longest run of methods that are not told apart."""
        found: list[tuple[int, int]] = []
        for i, rank in enumerate(self.mean_ranks):
            last = max(j for j, other in enumerate(self.mean_ranks) if other - rank <= self.distance)
            if last > i and (not found or last > found[-1][1]):
                found.append((i, last))
        return found


@dataclass(frozen=True, slots=True)
class Judged:
    """One table with all that is said about its rows, by fingerprint."""

    rows: list[Row]
    standings: dict[str, Standing]
    gaps: dict[str, dict[str, Difference]]
    """To "dense" and to "rigl"."""

    def is_best(self, row: Row) -> bool:
        return row.fingerprint in self.standings and self.standings[row.fingerprint].best


def narrowed(tables: Iterable[Judged], wanted: Callable[[Row], bool]) -> list[Judged]:
    """The rows that are wanted, with what is said of them among all."""
    kept = [replace(of, rows=[row for row in of.rows if wanted(row)]) for of in tables]
    return [of for of in kept if of.rows]


def judged(rows: Iterable[Row]) -> list[Judged]:
    """The tables of these rows. What is maskable changes no dense network: its row serves all tables of its setting."""
    tables = tables_of(rows)
    dense = [row for of in tables for row in of if row.density == 1 and row.accuracies]
    found = []
    for of in tables:
        others = [
            r for r in dense if all(r is not o for o in of) and r.convention.training == of[0].convention.training
        ]
        found.append(Judged(of, standings(of), {"dense": gaps(of, "dense", others), "rigl": gaps(of, "rigl")}))
    return found


Cells = dict[tuple[Convention, float], dict[str, float]]
"""Mean accuracy by method, for every table and density."""


def cells_over(rows: Iterable[Row]) -> Cells:
    """Sparse methods only. Of several rows of a method in one cell, the best."""
    cells: Cells = {}
    for table in tables_of(rows):
        for density, cell in cells_of_table(table).items():
            means: dict[str, float] = {}
            for row in cell:
                means[row.method] = max(means.get(row.method, 0.0), row.mean or 0.0)
            if density < 1 and len(means) > 1:
                cells[(table[0].convention, density)] = means
    return cells


def complete(cells: Cells) -> tuple[Cells, tuple[str, ...]]:
    """Cells with every method in them; methods that most cells miss are left out first, then cells that miss some."""
    methods = {m for means in cells.values() for m in means}
    kept = {m for m in methods if 2 * sum(m in means for means in cells.values()) > len(cells)}
    whole = {key: {m: means[m] for m in kept} for key, means in cells.items() if kept <= means.keys()}
    return whole, tuple(sorted(methods - kept))


def critical_difference(rows: Iterable[Row]) -> CriticalDifference | None:
    """None with fewer than three methods or three cells: there is nothing to test."""
    cells, left_out = complete(cells_over(rows))
    methods = sorted({m for means in cells.values() for m in means})
    if len(methods) < 3 or len(cells) < 3:
        return None
    import numpy as np
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    values = np.array([[means[m] for m in methods] for means in cells.values()])
    ranks = rankdata(-values, axis=1).mean(0)
    tied = bool((values == values[:, :1]).all())
    k, n = len(methods), len(cells)
    distance = float(studentized_range.ppf(1 - ALPHA, k, np.inf)) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))
    order = sorted(range(k), key=lambda i: (ranks[i], methods[i]))
    return CriticalDifference(
        methods=tuple(methods[i] for i in order), mean_ranks=tuple(float(ranks[i]) for i in order), n_cells=n,
        p=1.0 if tied else float(friedmanchisquare(*values.T).pvalue), distance=distance, left_out=left_out,
    )  # fmt: skip


def profiles(rows: Iterable[Row], points: Iterable[float]) -> dict[str, list[float]]:
    """By method, the share of cells in which its mean is within so many points of the cell's best (Dolan and More 2002,
    with a distance for their ratio). A cell without the method counts as out of reach."""
    cells = cells_over(rows)
    methods = sorted({m for means in cells.values() for m in means})
    distance = {
        m: [100 * (max(means.values()) - means[m]) if m in means else math.inf for means in cells.values()]
        for m in methods
    }  # fmt: skip
    return {m: [sum(d <= p + 1e-9 for d in distance[m]) / len(cells) for p in points] for m in methods}
