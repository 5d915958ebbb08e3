"""Runs as Ray Tune trials, the same way for a suite and for a search."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from harness.config import Cell
from harness.errors import HarnessError, Interrupted
from harness.tune.cluster import LeaveRequest, uses_gpu

RETRIES = 2
"""Times a trial whose process or node was lost is started again; it continues from its runs' own checkpoints."""


def trial_of(cells: list[Cell], out: Path, gpu: bool, tick_s: float) -> dict[str, Any]:
    """What a Tune trial is given: runs, one after another. tick_s: how often its driver may look, at evaluations."""
    plain = [{"config": cell.config.model_dump(mode="json"), "seed": cell.seed} for cell in cells]
    return {"cells": plain, "out": str(out), "gpu": gpu, "tick_s": tick_s}


def at_once(cell: Cell, resources: dict[str, float], gpu_share: float, wanted: int | None = None) -> int:
    """How many trials like `cell` the cluster holds at the same time, and no more than are wanted."""
    kind, each = ("GPU", gpu_share) if uses_gpu(cell, resources) else ("CPU", 1.0)
    fits = max(1, int(resources.get(kind, 0) / (each * cell.config.engine.workers) + 1e-9))
    return fits if wanted is None else min(fits, wanted)


def run_trials(
    like: Cell, out: Path, resources: dict[str, float], leave: LeaveRequest, n_at_once: int,
    grid: list[dict[str, Any]] | None = None, searcher: Any = None, gpu_share: float = 1.0,
) -> list[dict[str, Any]]:  # fmt: skip
    """Run the trials of a list, or those a searcher proposes until it has no more. All need what `like` needs.

    Returns those whose machine was taken away under them: they were saved, and are to be run again. Raises Interrupted
    when asked to leave.
    """
    from ray import tune

    from harness.tune.trial import CellTrial

    logging.getLogger("ray").setLevel(logging.ERROR)
    alone = like.config.engine.workers == 1
    gpu = gpu_share if uses_gpu(like, resources) else 0
    # A worker group brings its own placement; the trial that waits for it sits on the head node and holds no CPU there.
    needs = {"cpu": 1, "gpu": gpu} if alone else {"node:__internal_head__": 0.001}
    scratch, name = out / ".ray", f"trials-{os.getpid()}"
    tuner = tune.Tuner(
        tune.with_resources(CellTrial, needs),
        param_space={"trial": tune.grid_search(grid)} if grid is not None else None,
        tune_config=tune.TuneConfig(
            reuse_actors=alone, max_concurrent_trials=n_at_once, search_alg=searcher,
            num_samples=1 if searcher is None else 1_000_000,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(scratch),
            verbose=0,
            stop=_stopper(leave),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )  # fmt: skip
    try:
        results = tuner.fit()
        if leave.asked:
            raise Interrupted("stopped: the same command continues the runs that are not done")
        return [r.config["trial"] for r in results if r.config and (r.metrics or {}).get("status") == "preempted"]
    except tune.TuneError as error:
        raise HarnessError(f"Ray Tune stopped: {error}") from None
    finally:
        shutil.rmtree(scratch / name, ignore_errors=True)  # what is continued from is the runs themselves


def _stopper(leave: LeaveRequest) -> Any:
    from ray.tune import Stopper

    class OnRequest(Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return leave.asked

    return OnRequest()
