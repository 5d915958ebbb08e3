"""How the cost of a step grows with batch, width, density and ranks; drawn beside the figures."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.contenders import FOREVER, Stepping, job_of, on
from benchmarks.engines import step_seconds
from benchmarks.figures import take_turns


def run(smoke: bool) -> dict[str, Any]:
    rigl = {"name": "rigl", "interval": FOREVER}
    if smoke:
        axes: dict[str, dict[float, dict[str, Any]]] = {
            "batch": {b: {"model": {"width": 2}, "data": {"batch_size": b}} for b in (4, 8)}
        }
    else:
        axes = {
            "batch": {b: {"data": {"batch_size": b}} for b in on((64, 128, 256, 512, 1024, 2048), (16, 64, 256))},
            "width": {w: {"model": {"width": w}} for w in on((16, 32, 64, 128), (4, 8, 16, 32))},
            "density": {d: {"method": {**rigl, "density": d}} for d in (1.0, 0.1, 0.01, 0.001)},
        }
    grown: dict[str, dict[str, float]] = {}
    for axis, points in axes.items():
        runs = {str(at): Stepping(job_of(**{"method": {**rigl, "density": 0.01}, **s}), 2) for at, s in points.items()}
        taken = take_turns(runs, 2 if smoke else 5)
        grown[axis] = {at: 1000 * median(seconds) / 2 for at, seconds in taken.items()}
    ranks = (1, 2) if smoke else (1, 2, 4)
    grown["ranks"] = {str(n): 1000 * step_seconds(n, width=2 if smoke else on(64, 16)) for n in ranks}
    table = Table(title="milliseconds of a step", title_justify="left")
    for column in ("axis", "at", "ms"):
        table.add_column(column, justify="right")
    for axis, found in grown.items():
        for at, ms in found.items():
            table.add_row(axis, at, f"{ms:.1f}")
    Console().print(table)
    return {"step_ms": grown}


def draw(figures: dict[str, Any], path: Path, search: Path) -> None:
    """One panel for each axis, both scales logarithmic; and a proposal's cost by trials, where that was measured."""
    from matplotlib.figure import Figure as Picture

    panels = {f"a step by {axis}": found for axis, found in figures["step_ms"].items()}
    if search.exists():
        asks = json.loads(search.read_text())["figures"]["ask_and_tell"]
        panels["a proposal by trials before"] = {n: a["ask_ms"] + a["tell_ms"] for n, a in asks.items()}
    picture = Picture(figsize=(3.0 * len(panels), 3.0), layout="constrained")
    for panel, (title, found) in zip(picture.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        at = [float(a) for a in found]
        panel.plot(at, list(found.values()), marker="o", color="#0b6e99")
        panel.set(xscale="log", yscale="log", title=title)
        panel.set_xticks(at, [f"{a:g}" for a in at])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.set_ylim(min(found.values()) / 2, 2 * max(found.values()))
    picture.supylabel("milliseconds")
    picture.savefig(path, dpi=110)
