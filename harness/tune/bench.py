"""The cells of a suite as Ray Tune trials: those already done are not run again, and a failed one sinks nothing."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.config import Cell
from harness.errors import HarnessError, Interrupted
from harness.track.record import read_result
from harness.tune.cluster import LeaveRequest, check_fits, connected, uses_gpu
from harness.tune.progress import ProgressView


def run_cells(cells: list[Cell], out: Path, address: str, console: Console) -> list[dict[str, Any]]:
    """Run what is not done; returns a result per cell, in order, failed ones with their reason."""
    pending = [cell for cell in cells if (read_result(out / cell.run_id) or {}).get("status") != "done"]
    if len(pending) < len(cells):
        console.print(f"{len(cells) - len(pending)} of {len(cells)} runs are already done")
    if pending:
        for cell in pending:  # an old failure is not the outcome of this attempt
            (out / cell.run_id / "result.json").unlink(missing_ok=True)
        view = ProgressView(cells, out, console)
        try:
            with connected(address) as resources:
                check_fits(pending, resources)
                _tune(pending, out, resources)
        finally:
            view.close()
    from harness.tune.trial import failed_result

    return [
        read_result(out / cell.run_id) or failed_result(cell, "its process was lost and left no result")
        for cell in cells
    ]


def _tune(cells: list[Cell], out: Path, resources: dict[str, float]) -> None:
    from ray import tune

    from harness.tune.trial import CellTrial

    logging.getLogger("ray").setLevel(logging.ERROR)
    gpu, workers = uses_gpu(cells[0], resources), cells[0].config.engine.workers
    plain = [
        {"config": cell.config.model_dump(mode="json"), "seed": cell.seed, "out": str(out), "gpu": gpu}
        for cell in cells
    ]
    # A worker group brings its own placement; the trial that waits for it sits on the head node and holds no CPU there.
    needs = {"cpu": 1, "gpu": 1 if gpu else 0} if workers == 1 else {"node:__internal_head__": 0.001}
    at_once = None if workers == 1 else max(1, int(resources["GPU" if gpu else "CPU"]) // workers)
    leave = LeaveRequest()
    scratch, name = out / ".ray", f"bench-{os.getpid()}"
    tuner = tune.Tuner(
        tune.with_resources(CellTrial, needs),
        param_space={"cell": tune.grid_search(plain)},
        tune_config=tune.TuneConfig(reuse_actors=workers == 1, max_concurrent_trials=at_once),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(scratch),
            verbose=0,
            stop=_stopper(leave),
            failure_config=tune.FailureConfig(max_failures=1),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    try:
        tuner.fit()
        if leave.asked:
            raise Interrupted("stopped: the same command continues the runs that are not done")
    except tune.TuneError as error:
        raise HarnessError(f"Ray Tune stopped: {error}") from None
    finally:
        shutil.rmtree(scratch / name, ignore_errors=True)  # what a suite continues from is the runs themselves


def _stopper(leave: LeaveRequest) -> Any:
    from ray.tune import Stopper

    class OnRequest(Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return leave.asked

    return OnRequest()
