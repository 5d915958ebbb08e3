"""EAST while its activations are dynamic, beside RigL: a step, and the memory that training takes at its peak."""

from __future__ import annotations

import multiprocessing
import resource
from typing import Any

import psutil
import torch

from benchmarks.contenders import FOREVER, Stepping, job_of, on
from benchmarks.figures import Figure, ratios, show, take_turns

SELDOM: dict[str, Any] = {"density": 0.01, "interval": FOREVER}
METHODS: dict[str, dict[str, Any]] = {
    "rigl": {"name": "rigl", **SELDOM},
    "east": {"name": "east", "cyclic": None, "sharing": {}, "dyrelu": {}, **SELDOM},
}


def run(smoke: bool) -> dict[str, Any]:
    width = 2 if smoke else on(64, 16)
    n, rounds = (1, 2) if smoke else (on(30, 2), 9)
    contenders = {name: Stepping(_job(name, width), n) for name in METHODS}
    taken = take_turns(contenders, rounds)
    peaks: dict[str, list[int]] = {name: [] for name in METHODS}
    for _ in range(1 if smoke else 3):
        for name in METHODS:
            peaks[name].append(_peak(name, width))
    figures = [
        Figure("step of EAST with DyReLU over RigL", ratios(taken["east"], taken["rigl"]), 1.35, 1.15),
        Figure(
            "peak memory of EAST with DyReLU over RigL", ratios(peaks["east"], peaks["rigl"]), 1.3, 1.1,
            note=f"RigL: {max(peaks['rigl']) / 1e6:,.0f} MB {on('of the device', 'above what the process had before')}",
        ),
    ]  # fmt: skip
    show("EAST beside RigL", figures)
    return {"figures": [figure.plain() for figure in figures]}


def _job(name: str, width: int) -> Any:
    return job_of(model={"width": width}, method=METHODS[name])


def _peak(name: str, width: int) -> int:
    """Bytes, of a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_train, args=(name, width, theirs))
    process.start()
    peak: int = ours.recv()
    process.join()
    return peak


def _train(name: str, width: int, pipe: Any) -> None:
    job = _job(name, width)
    before = psutil.Process().memory_info().rss
    Stepping(job, 3)()
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    pipe.send(peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
