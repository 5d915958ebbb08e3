"""A cell on several workers: a Ray Train worker group, the engine inside each worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from harness.config import Cell, build_config
from harness.errors import Interrupted
from harness.track.record import STOP_NOTE

BEAT_S = 1.0


def train_on_workers(cell: Cell, out: Path, gpu: bool) -> Iterator[dict[str, Any]]:
    """Yields every second while the group trains; ends when the run is done, or raises what the workers raised."""
    with ThreadPoolExecutor(1) as pool:
        group = pool.submit(_train, cell, out, gpu)
        while not wait([group], BEAT_S).done:
            yield {}
        try:
            group.result()
        except Exception:
            if (out / cell.run_id / STOP_NOTE).exists():
                raise Interrupted("stopped on request") from None
            raise


def _train(cell: Cell, out: Path, gpu: bool) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        worker,
        train_loop_config={"config": cell.config.model_dump(mode="json"), "seed": cell.seed, "out": str(out)},
        scaling_config=ScalingConfig(
            num_workers=cell.config.engine.workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": 1, **({"GPU": 1} if gpu else {})},
        ),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=RunConfig(name=cell.run_id, storage_path=str(out / ".ray" / "train")),
    )
    trainer.fit()


def worker(settings: dict[str, Any]) -> None:
    from harness.train.run import execute

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    config = build_config(settings["config"], "cell")
    for _ in execute(config, settings["seed"], Path(settings["out"])):
        pass
