"""Accuracy against sparsity, one line per method."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from harness.board.claims import Claim
from harness.board.rows import Row
from harness.board.table import beside

ROUND = (0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002, 0.0001)
COLOURS = {"east": "#c1272d", "rigl": "#0071bc", "set": "#2a9d4a", "static": "#7f7f7f"}
OTHERS = ("#e08d1b", "#00a6a6", "#9a60b4", "#6a4a2f", "#c44fa0", "#7a9e2f", "#6a7fdb", "#b08d57")


DENSEST = 0.99


def logit(density: float) -> float:
    """Of sparsity, in powers of ten: 99, 99.9 and 99.99 % sparse lie at about 2, 3 and 4. Densities end at DENSEST."""
    density = min(density, DENSEST)
    return math.log10((1 - density) / density)


def draw_curve(rows: list[Row], stem: Path, claims: Iterable[Claim] = ()) -> list[Path]:
    """Write stem.png and stem.svg for the rows of one table.

    Dense rows are a horizontal line, what was published at about these densities grey diamonds.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    lines: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.mean is not None:
            lines[row.method].append(row)
    figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
    for row in lines.pop("dense", []):
        axes.axhline(100 * (row.mean or 0), color="black", linestyle="--", linewidth=1, label="dense")
    # the legend from top to bottom as the lines end
    names = sorted(lines, key=lambda m: (-(min(lines[m], key=lambda r: r.density).mean or 0), m))
    others = sorted(set(names) - set(COLOURS))
    colours = COLOURS | {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(others)}
    for marker, name in zip("os^dvPX*<>" * 3, names, strict=False):
        points = sorted(lines[name], key=lambda r: -r.density)
        x = [logit(r.density) for r in points]
        y = [100 * (r.mean or 0) for r in points]
        spread = [100 * (r.std or 0) for r in points]
        # the spread of a density that came out, through the slope of the logit
        across = [0.434 * (r.density_std or 0) / (r.density * (1 - min(r.density, DENSEST))) for r in points]
        axes.errorbar(
            x, y, spread, across if any(across) else None, marker=marker, capsize=3, label=name, color=colours[name]
        )
    published = [c for c in beside(claims, rows) if c.density is not None and c.density < 1 and c.mean is not None]
    if published:
        axes.plot(
            [logit(c.density or 1) for c in published], [c.mean for c in published], "D", color="#999999",
            fillstyle="none", label="published",
        )  # fmt: skip
    densities = sorted({r.density for of in lines.values() for r in of if not r.emergent}, reverse=True)
    densities = densities or [d for d in ROUND if any(d / 3 < r.density < 3 * d for of in lines.values() for r in of)]
    axes.set_xticks([logit(d) for d in densities], [f"{100 * (1 - d):g} %" for d in densities])
    axes.set_xlabel("sparsity (logit scale)")
    axes.set_ylabel("test accuracy, last epoch (%)")
    n_seeds = {len(r.seeds) for of in lines.values() for r in of}
    seeds = f"{min(n_seeds)}" if len(n_seeds) == 1 else f"{min(n_seeds, default=0)} to {max(n_seeds, default=0)}"
    axes.set_title(f"{rows[0].data}, {rows[0].model}; mean ± std of {seeds} seeds", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_suffix(suffix) for suffix in (".png", ".svg")]
    for path in paths:
        figure.savefig(path, dpi=140)
    plt.close(figure)
    return paths
