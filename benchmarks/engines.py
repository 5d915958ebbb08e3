"""DeepSpeed beside DDP, on two ranks of this machine that take turns: a step of RigL."""

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

import torch

from benchmarks.contenders import FOREVER, Stepping, job_of, on
from benchmarks.figures import Figure, ratios, show

ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"name": "torch"},
    "deepspeed stage 0": {"name": "deepspeed", "zero_stage": 0},
    "deepspeed stage 1": {"name": "deepspeed", "zero_stage": 1},
    "deepspeed stage 2": {"name": "deepspeed", "zero_stage": 2},
}


def run(smoke: bool) -> dict[str, Any]:
    n_ranks = on_this_machine()
    wanted = list(ENGINES)[:2] if smoke else list(ENGINES)
    n, rounds = (1, 2) if smoke else (on(30, 3), 9)
    taken = on_ranks(n_ranks, wanted, width=2 if smoke else on(64, 16), n=n, rounds=rounds)
    figures = [
        Figure(
            f"step of {name} over ddp, {n_ranks} ranks", ratios(taken[name], taken["ddp"]),
            *((1.05, 1.02) if name.endswith("0") else (None, None)),
        )
        for name in taken if name != "ddp"
    ]  # fmt: skip
    show("engines", figures)
    return {"figures": [figure.plain() for figure in figures]}


def on_this_machine() -> int:
    """A rank for each GPU, or two on a CPU."""
    return torch.cuda.device_count() or 2


def step_seconds(n_ranks: int, width: int) -> float:
    """Of a batch of 128 divided among ranks under DDP."""
    return median(on_ranks(n_ranks, ["ddp"], width, n=2, rounds=4)["ddp"]) / 2


def on_ranks(n_ranks: int, wanted: list[str], width: int, n: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of `n` steps in each round, by engine, of ranks in processes of their own."""
    with TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        path, spawn = Path(folder) / "figures.json", multiprocessing.get_context("spawn")
        told = (n_ranks, port, wanted, width, n, rounds, str(path))
        ranks = [spawn.Process(target=_train, args=(rank, *told)) for rank in range(n_ranks)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        taken: dict[str, list[float]] = json.loads(path.read_text())
    return taken


def _train(rank: int, n_ranks: int, port: int, wanted: list[str], width: int, n: int, rounds: int, path: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n_ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    sections: dict[str, Any] = {"model": {"width": width}, "method": {"name": "rigl", "density": 0.01}}
    sections["method"]["interval"] = FOREVER
    runs = {name: Stepping(job_of(**sections, engine={**ENGINES[name], "workers": n_ranks}), n) for name in wanted}
    taken: dict[str, list[float]] = {name: [] for name in wanted}
    for number in range(rounds + 1):
        for name in wanted:
            runs[name].job.engine.ranks.barrier()
            began = time.perf_counter()
            runs[name]()
            if number:
                taken[name].append(time.perf_counter() - began)
    if rank == 0:
        Path(path).write_text(json.dumps(taken))
    for stepping in runs.values():
        stepping.job.engine.close()
