from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from statistics import mean, stdev

from rich.console import Console
from rich.table import Table

from harness.board.claims import Comparison, Verdict, Verified
from harness.board.differences import Difference
from harness.board.rows import Row
from harness.board.statistics import interval


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


def show_table(rows: list[Row], console: Console) -> None:
    """One table per data set and model, densities apart; failures below, in words."""
    for (data, model), group in groupby(rows, key=lambda r: (r.data, r.model)):
        of = list(group)
        n_weights = max(r.n_weights for r in of)
        table = Table(title=f"{data}, {model}: {n_weights:,} maskable weights", title_justify="left")
        for name in ("sparsity %", "density", "method"):
            table.add_column(name, justify="left" if name == "method" else "right")
        for name in ("test accuracy %", "95 % interval", "n", "active weights", "non-zeros"):
            table.add_column(name, justify="right")
        previous = None
        for row in of:
            if previous is not None and previous != row.density:
                table.add_section()
            previous = row.density
            spread = f" ± {percent(row.std)}" if row.std is not None else ""
            n = f"{len(row.seeds)}" + (f" (+{len(row.failures)} failed)" if row.failures else "")
            n += f" ({row.n_collapsed} collapsed)" if row.n_collapsed else ""
            ends = interval(row.accuracies)
            table.add_row(
                *shown_density(row), row.method, f"{percent(row.mean)}{spread}",
                f"{percent(ends[0], 1)} to {percent(ends[1], 1)}" if ends else "-",
                n, span(row.n_active), span(row.n_nonzero),
            )  # fmt: skip
        console.print(table)
        console.print(
            "accuracy: last epoch, mean ± standard deviation over n seeds, Student's interval of the mean; density: "
            "kept over maskable weights (convolutions, linear layers); collapsed: below twice chance",
            style="dim",
        )
        for row in of:
            for remark in row.remarks:
                console.print(f"{row.method} at density {row.density:.4g}: {remark}", style="yellow")
            for failure in row.failures:
                console.print(f"failed: {row.method} at density {row.density:g}, {failure}", style="red")


def show_differences(found: list[Difference], console: Console) -> None:
    """Percentage points, with their interval."""
    for d in found:
        interval = f" [{100 * d.low:+.2f}, {100 * d.high:+.2f}]" if d.low is not None and d.high is not None else ""
        p = f", p = {d.p_holm:.2g} after Holm" if d.p_holm is not None else ""
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
