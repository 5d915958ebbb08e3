"""The cells of a suite as Ray Tune trials: those already done are not run again, and a failed one sinks nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.config import Cell
from harness.track.record import STOP_NOTE, read_result
from harness.tune.cluster import LeaveRequest, check_fits, connected, uses_gpu
from harness.tune.estimate import estimate
from harness.tune.launch import at_once, run_trials, trial_of
from harness.tune.nodes import check_nodes
from harness.tune.progress import ProgressView, RunsLook, duration, fraction_done


def images_trained(cells: list[Cell], out: Path, before: dict[str, float]) -> float:
    """By the runs that are done, since they were as far as `before` says."""
    found = [(cell, read_result(out / cell.run_id) or {}) for cell in cells]
    return sum((1 - before[c.run_id]) * r.get("steps", 0) * c.config.data.batch_size for c, r in found)


def run_cells(
    cells: list[Cell], out: Path, address: str, console: Console, gpu_share: float = 1.0
) -> list[dict[str, Any]]:
    """Run what is not done; returns a result per cell, in order, failed ones with their reason."""
    pending = [cell for cell in cells if (read_result(out / cell.run_id) or {}).get("status") != "done"]
    if len(pending) < len(cells):
        console.print(f"{len(cells) - len(pending)} of {len(cells)} runs are already done")
    if pending:
        for cell in pending:  # an old failure, or wish to stop, is not of this attempt
            for left in ("result.json", STOP_NOTE):
                (out / cell.run_id / left).unlink(missing_ok=True)
        before = {cell.run_id: fraction_done(out / cell.run_id) for cell in pending}
        look = RunsLook(pending, out)
        with ProgressView(look, console), connected(address) as resources:
            check_fits(pending, resources)
            check_nodes(address, out, pending, console)
            gpu, like = uses_gpu(pending[0], resources), pending[0]
            leave, n_at_once = LeaveRequest(), at_once(like, resources, gpu_share)
            expected, began = estimate(pending, out, gpu_share if gpu else 0, n_at_once), time.monotonic()
            if expected is not None:
                look.expect(expected)
                console.print(
                    f"estimate: {duration(look().left_s or 0)} for {len(pending)} runs, {n_at_once} at once; "
                    "from the first steps of each method"
                )
            grid = [trial_of([cell], out, gpu, tick_s=5.0) for cell in pending]
            while grid:
                grid = run_trials(like, out, resources, leave, n_at_once, grid, gpu_share=gpu_share)
            took = time.monotonic() - began
        said = ""
        if expected is not None:
            off = 100 * (expected.wall_s / took - 1)
            said = f" (estimated: {duration(expected.wall_s)}, {abs(off):.0f} % too {'much' if off > 0 else 'little'})"
        speed = images_trained(pending, out, before) / took
        console.print(f"{len(pending)} runs took {duration(took)}{said}: {speed:,.0f} images/s of {n_at_once} at once")
    from harness.tune.trial import failed_result

    return [
        read_result(out / cell.run_id) or failed_result(cell, "its process was lost and left no result")
        for cell in cells
    ]
