"""Accuracy against sparsity, one line per method."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

from harness.board.rows import Row

ORDER = ("east", "rigl", "set", "static")
ROUND = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002, 0.0001)
COLOURS = {"east": "#c1272d", "rigl": "#0071bc", "set": "#2a9d4a", "static": "#7f7f7f"}


def draw_curve(rows: list[Row], stem: Path) -> list[Path]:
    """Write stem.png and stem.svg for the rows of one data set and model; dense rows are a horizontal line.

    The axis is logarithmic in density, so that 99, 99.9 and 99.99 % lie apart.
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
    names = sorted(lines, key=lambda m: (ORDER.index(m) if m in ORDER else len(ORDER), m))
    for marker, name in zip("os^dvPX*<>" * 3, names, strict=False):
        points = sorted(lines[name], key=lambda r: -r.density)
        x = [-math.log10(r.density) for r in points]
        y = [100 * (r.mean or 0) for r in points]
        spread = [100 * (r.std or 0) for r in points]
        # the spread of a density that came out, to both sides of its logarithm
        across = [0.434 * (r.density_std or 0) / r.density for r in points]
        axes.errorbar(
            x, y, spread, across if any(across) else None, marker=marker, capsize=3, label=name, color=COLOURS.get(name)
        )
    densities = sorted({r.density for of in lines.values() for r in of if not r.emergent}, reverse=True)
    densities = densities or [d for d in ROUND if any(d / 3 < r.density < 3 * d for of in lines.values() for r in of)]
    axes.set_xticks([-math.log10(d) for d in densities], [f"{100 * (1 - d):g} %" for d in densities])
    axes.set_xlabel("sparsity (logarithmic in density)")
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
