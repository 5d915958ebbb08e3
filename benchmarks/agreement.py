"""What it costs that the masks of all ranks are compared: beside a topology update, and beside training.

Two processes on this machine train RigL on a ResNet-34 under DDP. At each topology update three things are timed: the
update itself (scores, masks, weights and momentum), the digests of all masks, and the collective that compares them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

INTERVAL = 100
"""Steps between updates that the share of training is told for, RigL's default."""


def run(smoke: bool) -> dict[str, Any]:
    n_updates, width = (2, 4) if smoke else (10, 64)
    with TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        path, spawn = Path(folder) / "figures.json", multiprocessing.get_context("spawn")
        ranks = [spawn.Process(target=_train, args=(rank, port, n_updates, width, str(path))) for rank in range(2)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        figures: dict[str, Any] = json.loads(path.read_text())
    table = Table(title=f"masks of {figures['n_weights']:,} weights compared on 2 ranks", title_justify="left")
    for column in ("part", "ms, median", "least", "most"):
        table.add_column(column, justify="right")
    for part in ("step", "update", "digests", "collective"):
        table.add_row(part, *(f"{figures[part][of]:.2f}" for of in ("median", "least", "most")))
    console = Console()
    console.print(table)
    console.print(
        f"{figures['bytes_sent']} bytes a rank, one collective; comparing costs {figures['of_an_update']:.3f} of a "
        f"topology update and, at one in {INTERVAL} steps, {figures['of_training']:.5f} of training (goal 0.001)",
        soft_wrap=True,
    )
    return figures


def _train(rank: int, port: int, n_updates: int, width: int, path: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    import torch

    from harness.config import build_config
    from harness.train import checks, loop
    from harness.train.job import build_job

    torch.set_num_threads(1)
    plain = {
        "model": {"name": "resnet34", "width": width}, "data": {"name": "digits", "batch_size": 128},
        "method": {"name": "rigl", "density": 0.01, "interval": 1, "stop": 1.0}, "schedule": {"steps": n_updates + 1},
        "engine": {"device": "cpu", "workers": 2},
    }  # fmt: skip
    job = build_job(build_config(plain, "agreement"), 0, Path("unused"))
    times: dict[str, list[float]] = {"step": [], "update": [], "digests": [], "collective": []}
    sent = 0

    def timed(name: str, where: Any, function: str) -> None:
        do = getattr(where, function)

        def done(*given: Any, **named: Any) -> Any:
            job.engine.ranks.barrier()  # the wait for a slower rank is not the cost of what follows
            began = time.perf_counter()
            found = do(*given, **named)
            times[name].append(1000 * (time.perf_counter() - began))
            return found

        setattr(where, function, done)

    class Counted(type(job.engine.ranks)):  # type: ignore[misc]
        def gather(self, tensor: Any) -> Any:
            nonlocal sent
            sent = tensor.numel() * tensor.element_size()
            self.barrier()
            began = time.perf_counter()
            found = super().gather(tensor)
            times["collective"].append(1000 * (time.perf_counter() - began))
            return found

    job.engine.ranks = Counted(rank, 2)
    timed("digests", checks, "digest")
    timed("update", loop, "update_topology")
    timed("step", loop, "take_step")
    step = 0
    for epoch in range(n_updates):
        for batch in job.loader.train(epoch):
            step += 1
            if step > n_updates:
                break
            loop.take_step(job, step, batch)
    if rank == 0:
        figures: dict[str, Any] = {
            name: {"median": median(held), "least": min(held), "most": max(held)} for name, held in times.items()
        }
        compared = figures["digests"]["median"] + figures["collective"]["median"]
        alone = figures["step"]["median"] - figures["update"]["median"]
        figures |= {
            "n_weights": job.method.n_weights, "bytes_sent": sent,
            "of_an_update": compared / figures["update"]["median"], "of_training": compared / (INTERVAL * alone),
        }  # fmt: skip
        Path(path).write_text(json.dumps(figures))
    job.engine.close()
