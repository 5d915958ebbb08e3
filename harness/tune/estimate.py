"""How long a suite will take, from the first steps of one run of each method where the runs will be."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from harness.config import Cell
from harness.config.schema import model_label, shown_name

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


def estimate(cells: list[Cell], gpu_share: float, n_at_once: int) -> Estimate | None:
    """None for runs of several workers, and where nothing could be measured. Needs a connection to Ray.

    gpu_share: of a GPU that a run is given; 0: it trains on the CPU. As many are measured at once as will run at once.
    """
    import ray

    from harness.train.cost import Cost, measure_cost

    if any(cell.config.engine.workers > 1 for cell in cells):
        return None
    alike: dict[tuple[object, ...], Cell] = {}
    for cell in cells:
        alike.setdefault(_kind(cell), cell)
    measure = ray.remote(num_cpus=1, num_gpus=gpu_share, max_retries=0)(measure_cost)
    tasks = {kind: measure.remote(cell.config, cell.seed) for kind, cell in alike.items()}
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
    return Estimate(tuple(costs.get(_kind(cell), dearest).of(cell.config) for cell in cells), n_at_once)


def _kind(cell: Cell) -> tuple[object, ...]:
    """What a step costs the same for, near enough."""
    c = cell.config
    return c.data.name, c.data.batch_size, model_label(c), c.method.name, shown_name(c.method)
