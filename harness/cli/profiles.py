"""How a profile is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def show_profile(found: dict[str, Any], run_dir: Path, console: Console) -> None:
    console.print(f"a step of {found['step_ms']:.1f} ms, mean of {found['steps']} steps")
    table = Table()
    for column in ("part", "ms", "%"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part, ms in sorted(found["parts_ms"].items(), key=lambda entry: -entry[1]):
        table.add_row(part, f"{ms:.2f}", f"{100 * ms / found['step_ms']:.1f}")
    console.print(table)
    console.print(
        f"{found['images_per_second']:,.0f} images/s; model FLOP utilisation {100 * found['utilisation']:.1f} % of the "
        f"{found['matmul_flops_per_second'] / 1e12:.3g} TFLOP/s that matrix products reach here now (dense FLOPs, "
        f"forward and backward); in {run_dir / 'profile.json'}, soon a trace in trace.json.gz",
        soft_wrap=True,
    )
