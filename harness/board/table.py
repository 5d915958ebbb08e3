from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev

from rich import box
from rich.console import Console
from rich.table import Table

from harness.board.claims import Claim, Comparison, Verdict, Verified
from harness.board.differences import Difference
from harness.board.ranking import ALPHA, Judged, Standing
from harness.board.rows import Row
from harness.board.statistics import bootstrap, interval


def percent(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"


def span(values: tuple[int, ...]) -> str:
    """One number where all seeds agree, else the range."""
    if not values:
        return "-"
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def shown_density(row: Row) -> tuple[str, str]:
    """Sparsity in % and density; with their spread where density came out."""
    if not row.emergent:
        return f"{100 * (1 - row.density):g}", f"{row.density:g}"
    spread = row.density_std
    sparsity, density = f"{100 * (1 - row.density):.2f}", f"{row.density:.4f}"
    return (sparsity, density) if spread is None else (f"{sparsity} ± {100 * spread:.2f}", f"{density} ± {spread:.4f}")


def title_of(table: list[Row]) -> str:
    """What all rows of a table share."""
    one = next((r for r in table if r.accuracies), table[0])
    images = f"{one.n_train:,} images trained on" if one.n_train else ""
    images += f", {one.n_test:,} tested on" if one.n_test else ""
    exempt = f" and {one.n_exempt:,} that stay dense" if one.n_exempt else ""
    parts = [f"{one.data}, {one.model}", f"{one.n_weights:,} maskable weights{exempt}", one.setting_label, images]
    return "; ".join(part for part in parts if part)


def beside(claims: Iterable[Claim], table: list[Row]) -> list[Claim]:
    """Published cells of the same data set and network, at about the densities of a table."""
    densities = [r.density for r in table]
    return [
        c for c in claims
        if (c.data, c.model) == (table[0].data, table[0].model) and c.mean is not None and c.density is not None
        and any(abs(c.density / d - 1) <= NEAR for d in densities)
    ]  # fmt: skip


NEAR = 0.25
"""How far a published density may lie from one of ours, relatively, to be shown beside it."""


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    text: Callable[[Row], str]
    left: bool = False


def show_table(tables: list[Judged], console: Console, claims: Iterable[Claim] = (), wide: bool = False) -> None:
    """One table per convention, densities apart; what was published in grey; failures below, in words."""
    claims = list(claims)
    for held in tables:
        of = held.rows
        columns = columns_of(held, wide)
        table = Table(
            title=title_of(of), title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False
        )
        for column in columns:
            table.add_column(column.name, justify="left" if column.left else "right", no_wrap=True)
        entries: list[tuple[float, int, float, Row | Claim]] = [(-r.density, 0, -(r.mean or 0), r) for r in of]
        entries += [(-(c.density or 0), 1, -(c.mean or 0), c) for c in beside(claims, of)]
        previous, sources = None, list[str]()
        for density, _, _, entry in sorted(entries, key=lambda e: e[:3]):
            if previous is not None and previous != density:
                table.add_section()
            previous = density
            if isinstance(entry, Row):
                table.add_row(*(c.text(entry) for c in columns), style="bold" if held.is_best(entry) else None)
            else:
                told = f"published: {entry.source} ({entry.tag})"
                sources += [] if told in sources else [told]
                said = {
                    "sparsity %": f"{100 * (1 + density):.4g}", "density": f"{-density:g}", "n": f"{entry.n or '?'}",
                    "method": f"{entry.method} \\[{1 + sources.index(told)}]",
                    "accuracy %": spread(entry.mean, entry.std),
                }  # fmt: skip
                table.add_row(*(said.get(c.name, "") for c in columns), style="dim")
        console.print(table)
        for i, source in enumerate(sources, 1):
            console.print(f"[{i}] {source}", style="dim", highlight=False, markup=False)
        show_remarks(of, console)
    console.print(legend(tables), style="dim", highlight=False)


def show_summary(tables: list[Judged], console: Console) -> None:
    """Of boards too long to print: the tables, and how to see them."""
    rows = [row for of in tables for row in of.rows]
    table = Table(
        title=f"{len(rows):,} rows of {sum(len(r.seeds) for r in rows):,} runs", title_justify="left", box=None
    )
    for name in ("rows", "methods", "densities", "table"):
        table.add_column(name, justify="left" if name == "table" else "right", no_wrap=name != "table")
    for of in (held.rows for held in tables):
        table.add_row(
            f"{len(of):,}", f"{len({r.method for r in of})}", f"{len({r.density for r in of if not r.emergent})}",
            title_of(of),
        )  # fmt: skip
    console.print(table)
    console.print("--data, --density and --method choose among them, --html DIR makes a page, --all prints every row")


def columns_of(of: Judged, wide: bool) -> list[Column]:
    columns = [
        Column("sparsity %", lambda r: shown_density(r)[0]),
        Column("method", lambda r: r.method, left=True),
        Column("accuracy %", lambda r: spread(*(100 * v if v is not None else None for v in (r.mean, r.std)))),
        Column("95 % interval", lambda r: shown_interval(interval(r.accuracies))),
    ]
    if of.standings:
        columns.append(Column("rank", lambda r: shown_rank(of.standings.get(r.fingerprint))))
    columns += [gap_column(name, held) for name, held in of.gaps.items() if held]
    columns.append(Column("n", shown_n))
    columns.append(Column("non-zeros", lambda r: span(r.n_nonzero)))
    if wide:
        columns += [
            Column("median", lambda r: percent(median(r.accuracies) if r.accuracies else None)),
            Column("bootstrap", lambda r: shown_interval(bootstrap(r.accuracies))),
            Column("density", lambda r: shown_density(r)[1]),
            Column("active weights", lambda r: span(r.n_active)),
            Column("inference MACs", lambda r: shown_mean(r.inference_macs)),
            Column("training FLOPs", lambda r: shown_mean(r.train_flops)),
            Column("seconds", lambda r: shown_mean(r.train_seconds)),
            Column("device", lambda r: ", ".join(r.devices), left=True),
            Column("tuning", shown_tuning, left=True),
            Column("recipe", lambda r: r.fingerprint, left=True),
        ]
    return columns


def gap_column(name: str, held: dict[str, Difference]) -> Column:
    return Column(f"to {name}", lambda r: shown_gap(held.get(r.fingerprint)))


def legend(tables: list[Judged]) -> str:
    said = (
        "accuracy: of the test set at the last epoch, mean ± standard deviation over n seeds, Student's interval of "
        "the mean; sparsity: of the maskable weights; ✓: all runs verified"
    )
    if any(of.standings for of in tables):
        said += "; rank: by intervals that do not overlap; bold: ahead of every other one in a paired test (Holm, 5 %)"
    if any(held for of in tables for held in of.gaps.values()):
        said += "; to dense, to rigl: points by seed, * where the test says they differ"
    return said


def show_remarks(of: list[Row], console: Console) -> None:
    every = {s for r in of for s in (*r.seeds, *r.failed_seeds)}
    for row in of:
        for remark in row.remarks:
            console.print(f"{row.method} at density {row.density:.4g}: {remark}", style="yellow")
        if row.n_collapsed:
            console.print(
                f"{row.method} at density {row.density:.4g}: {row.n_collapsed} of {len(row.seeds)} seeds collapsed, "
                "below twice chance; they are in the mean",
                style="yellow", soft_wrap=True,
            )  # fmt: skip
        for failure in row.failures:
            console.print(f"failed: {row.method} at density {row.density:g}, {failure}", style="red")
    missing = [
        f"{row.method} at density {row.density:.4g}: {', '.join(map(str, sorted(every - seen)))}"
        for row in of if every - (seen := {*row.seeds, *row.failed_seeds})
    ]  # fmt: skip
    if missing:
        console.print(f"seeds that others have: {'; '.join(missing)}", style="yellow")


def shown_interval(ends: tuple[float, float] | None) -> str:
    """In %; what few seeds leave open beyond 0 and 100 is not printed."""
    return f"{percent(max(ends[0], 0.0), 1)} to {percent(min(ends[1], 1.0), 1)}" if ends else "-"


def shown_rank(standing: Standing | None) -> str:
    return "-" if standing is None else str(standing.rank)


def shown_gap(d: Difference | None) -> str:
    if d is None:
        return "-"
    return f"{100 * d.mean:+.2f}" + ("*" if d.p_holm is not None and d.p_holm < ALPHA else "")


def shown_n(row: Row) -> str:
    """Seeds that came through, of how many; whether all were verified."""
    n = f"{len(row.seeds)}" + (f" of {len(row.seeds) + len(row.failures)}" if row.failures else "")
    return n + (" ✓" if row.seeds and row.n_verified == len(row.seeds) else "")


def shown_mean(values: tuple[float, ...]) -> str:
    return f"{mean(values):.3g}" if values else "-"


def shown_tuning(row: Row) -> str:
    if not row.tuning:
        return "none"
    return f"{row.tuning['trials']} trials, {row.tuning['gpu_hours']:.3g} GPU-hours"


def show_differences(found: list[Difference], console: Console) -> None:
    """Percentage points, with their interval."""
    for d in found:
        interval = f" [{100 * d.low:+.2f}, {100 * d.high:+.2f}]" if d.low is not None and d.high is not None else ""
        p = f", p = {d.p_holm:.2g} after Holm" if d.p_holm is not None else ""
        p += f"; {d.needed} seeds would show this size" if d.needed and (d.p_holm or 0) >= ALPHA else ""
        console.print(
            f"{d.method} less {d.against} at density {d.density:.4g}: {100 * d.mean:+.2f} points{interval}{p} "
            f"({len(d.seeds)} seeds, paired)",
            highlight=False,
        )


VERDICTS: dict[Verdict, str] = {
    "confirmed": "green",
    "contradicted": "red",
    "partly": "yellow",
    "underpowered": "dim",
    "untested": "dim",
}


def show_verified(found: list[Verified], points: float, share: float, every: bool, console: Console) -> None:
    """Claims that were tested, or all; how many there are of each kind."""
    console.print("test accuracy in %, and the share of weights left in % where it came out")
    table = Table(box=None, header_style="bold")
    for name in ("claim", "published", "here (runs)", "difference, 95 % interval", "verdict"):
        table.add_column(name, justify="left" if name in ("claim", "verdict") else "right", no_wrap=True)
    for v in found:
        if v.verdict == "untested" and not every:
            continue
        c = v.claim
        table.add_row(
            f"{c.data} {c.model} {c.method}{'*' if c.superseded else ''}", spread(c.mean, c.std),
            f"{spread_of(v.accuracies)} ({len(v.accuracies)})", shown_difference(v.accuracy, 1.0, ""),
            f"[{VERDICTS[v.verdict]}]{v.verdict}[/]",
        )  # fmt: skip
        if v.density is not None and c.density is not None:
            theirs = spread(100 * c.density, 100 * c.density_std if c.density_std is not None else None)
            ours, how = spread_of([100 * d for d in v.densities]), shown_difference(v.density, 100.0, " %")
            table.add_row("  weights left", theirs, ours, how, f"[dim]{v.density.verdict}[/]")
        elif c.density is not None and c.density < 1:
            table.add_row(f"  density {c.density:g}", "", "", "", "")
    if table.row_count:
        console.print(table)
    counts = Counter(v.verdict for v in found)
    console.print(
        f"{len(found)} claims: {', '.join(f'{counts[verdict]} {verdict}' for verdict in VERDICTS)}; "
        f"tolerance {points:g} points of accuracy, {share:.0%} of a density that came out; ours is the last epoch; "
        "*: an earlier version of the paper",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def spread(middle: float | None, std: float | None) -> str:
    if middle is None:
        return "-"
    return f"{middle:.2f}" + (f" ± {std:.2f}" if std is not None else "")


def spread_of(values: Sequence[float]) -> str:
    return spread(mean(values), stdev(values) if len(values) > 1 else None) if values else "-"


def shown_difference(c: Comparison | None, unit: float, name: str) -> str:
    if c is None:
        return "-"
    interval = f" [{unit * c.low:+.2f}, {unit * c.high:+.2f}]" if c.low is not None and c.high is not None else ""
    return f"{unit * c.difference:+.2f}{interval}{name}"
