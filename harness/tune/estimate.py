"""How long a suite will take, from the first steps of one run of each method where the runs will be."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config import Cell
from harness.config.schema import model_label, shown_name

if TYPE_CHECKING:
    from harness.train.cost import Cost

MEASURING_S = 120.0
"""A cluster that has not answered by then is still being brought up: no estimate."""


@dataclass(frozen=True, slots=True)
class Estimate:
    seconds: tuple[float, ...]
    """Per run, in the order of the cells."""

    n_at_once: int

    @property
    def wall_s(self) -> float:
        """All of them, each started where one ends first."""
        free = [0.0] * self.n_at_once
        for seconds in self.seconds:
            heapq.heapreplace(free, free[0] + seconds)
        return max(free)


def estimate(cells: list[Cell], out: Path, gpu_share: float, n_at_once: int) -> Estimate | None:
    """None where nothing could be measured. Needs a connection to Ray. gpu_share: of a GPU that a run of one worker is
    given; 0: runs train on the CPU."""
    costs = costs_of(cells, out, gpu_share)
    if costs is None:
        return None
    return Estimate(tuple(cost.of(cell.config) for cost, cell in zip(costs, cells, strict=True)), n_at_once)


def costs_of(cells: list[Cell], out: Path, gpu_share: float) -> list[Cost] | None:
    """Of each run, on its own workers. As many kinds are measured at once as will run at once; one that could not be is
    taken to be as the dearest."""
    import ray

    from harness.train.cost import measure_cost
    from harness.tune.workers import measure_on_workers

    alike: dict[tuple[object, ...], Cell] = {}
    for cell in cells:
        alike.setdefault(_kind(cell), cell)
    alone = ray.remote(num_cpus=1, num_gpus=gpu_share, max_retries=0)(measure_cost)
    # as a trial of several workers does: it waits for them on the head node and holds no CPU
    group = ray.remote(num_cpus=0, resources={"node:__internal_head__": 0.001}, max_retries=0)(measure_on_workers)
    tasks = {
        kind: group.remote(cell, out, gpu_share > 0) if cell.config.engine.workers > 1
        else alone.remote(cell.config, cell.seed)
        for kind, cell in alike.items()
    }  # fmt: skip
    ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=MEASURING_S)
    costs: dict[tuple[object, ...], Cost] = {}
    for kind, task in tasks.items():
        try:
            costs[kind] = ray.get(task, timeout=0)
        except ray.exceptions.GetTimeoutError:
            ray.cancel(task, force=True)
        except ray.exceptions.RayError:
            continue  # what keeps it from running, its own run says
    if not costs:
        return None
    dearest = max(costs.values(), key=lambda cost: cost.step_s)
    return [costs.get(_kind(cell), dearest) for cell in cells]


def _kind(cell: Cell) -> tuple[object, ...]:
    """What a step costs the same for, near enough."""
    c = cell.config
    e = c.engine
    mode = e.name, e.workers, e.zero_stage, e.precision
    return c.data.name, c.data.batch_size, model_label(c), c.method.name, shown_name(c.method), mode
