"""A cell on several workers: a Ray Train worker group, the engine inside each worker."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from harness.config import Cell, build_config
from harness.errors import CheckFailed, HarnessError, Interrupted
from harness.track.record import STOP_NOTE, read_result
from harness.tune.cluster import node_shapes
from harness.tune.launch import RETRIES

if TYPE_CHECKING:
    from harness.train.cost import Cost

SCRATCH = Path(".ray", "train")
BEAT_S = 1.0
LEASE_S = 600.0
"""For a host that was cut off to give up its run: Ray there takes minutes to end, a lease on NFS may take some too."""


def train_on_workers(cell: Cell, out: Path, gpu: bool) -> Iterator[dict[str, Any]]:
    """Yields every second while the group trains; ends when the run is done, or raises what the workers raised."""
    with ThreadPoolExecutor(1) as pool:
        group = pool.submit(_train, cell, out, gpu)
        while not wait([group], BEAT_S).done:
            yield {}
        try:
            group.result()
        except Exception:
            told = (read_result(out / cell.run_id) or {}).get("status") == "failed"  # and why
            if not told and not (out / cell.run_id / STOP_NOTE).exists():
                raise
        if (out / cell.run_id / STOP_NOTE).exists():
            raise Interrupted("stopped on request")


def _train(cell: Cell, out: Path, gpu: bool) -> None:
    """A group that lost a worker, its node or the way to it is started again, and continues from the checkpoint."""
    _group(worker, cell, out, gpu, cell.run_id, RETRIES)


def measure_on_workers(cell: Cell, out: Path, gpu: bool) -> Cost:
    """What the run costs on as many workers as it will have, placed as they will be; nothing of it is kept."""
    name = f"measure-{uuid4().hex[:12]}"
    began = time.monotonic()
    try:
        cost, inside_s = _group(measuring_worker, cell, out, gpu, name, 0)
    finally:
        rmtree(out / SCRATCH / name, ignore_errors=True)
    bringing_up_s = time.monotonic() - began - inside_s
    return replace(cost, start_s=cost.start_s + bringing_up_s)


def _group(loop: Callable[[dict[str, Any]], Any], cell: Cell, out: Path, gpu: bool, name: str, retries: int) -> Any:
    """Returns what the first rank's loop returned."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        loop,
        train_loop_config={"config": cell.config.model_dump(mode="json"), "seed": cell.seed, "out": str(out)},
        scaling_config=ScalingConfig(
            num_workers=cell.config.engine.workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": 1, **({"GPU": 1} if gpu else {})},
            placement_strategy=placement(cell.config.engine.workers, node_shapes(), gpu),
        ),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=RunConfig(
            name=name, storage_path=str(out / SCRATCH), failure_config=FailureConfig(max_failures=retries)
        ),
    )  # fmt: skip
    return trainer.fit().return_value


def placement(n_workers: int, nodes: list[dict[str, float]], gpu: bool) -> str:
    """On one node where there is one that holds all workers, else on as few as can be."""
    kinds = ("CPU", "GPU") if gpu else ("CPU",)
    return "STRICT_PACK" if any(all(n.get(k, 0) >= n_workers for k in kinds) for n in nodes) else "PACK"


def worker(settings: dict[str, Any]) -> None:
    """A check that failed did so on all ranks: it is the run's result, and starting again would not change it.

    Whatever else went wrong may have done so on one of them, and the others wait for it: then the group has to end.
    """
    from harness.train.run import execute
    from harness.tune.trial import record_failure

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    cell, out = Cell(build_config(settings["config"], "cell"), settings["seed"]), Path(settings["out"])
    try:
        for _ in execute(cell.config, cell.seed, out, patience_s=LEASE_S):
            pass
    except Interrupted:
        return  # the note that asked for it is there
    except HarnessError as error:
        if os.environ.get("RANK", "0") == "0":
            record_failure(cell, out, error)
        if not isinstance(error, CheckFailed):
            raise


def measuring_worker(settings: dict[str, Any]) -> tuple[Cost, float]:
    """With the seconds that it took, so that what a group costs to bring up can be told from it."""
    began = time.monotonic()
    from harness.train.cost import measure_cost

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return measure_cost(build_config(settings["config"], "cell"), settings["seed"]), time.monotonic() - began
