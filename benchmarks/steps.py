"""A step of the harness beside a loop written by hand; of each mask method beside dense; and topology updates."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from statistics import median
from typing import Any

import torch

from benchmarks.contenders import FOREVER, Stepping, by_hand, job_of, on
from benchmarks.figures import Figure, differences, ratios, show, take_turns
from harness.train.profile import NOTHING, Parts, wait_for

DENSITY = 0.01
SELDOM: dict[str, Any] = {"density": DENSITY, "interval": FOREVER}
MASK_METHODS: dict[str, dict[str, Any]] = {
    "static": {"name": "static", "density": DENSITY},
    "set": {"name": "set", **SELDOM},
    "rigl": {"name": "rigl", **SELDOM},
    "gmp": {"name": "gmp", **SELDOM},
    "snfs": {"name": "snfs", **SELDOM},
    "topkast": {"name": "topkast", "backward_density": 2 * DENSITY, **SELDOM},
    "east": {"name": "east", "dyrelu": None, "sharing": {}, "cyclic": None, **SELDOM},
}
UPDATING: dict[str, dict[str, Any]] = {
    "set": {"name": "set", "density": DENSITY},
    "rigl": {"name": "rigl", "density": DENSITY},
    "gmp": {"name": "gmp", "density": DENSITY, "begin": 0.0, "end": 1.0},
    "snfs": {"name": "snfs", "density": DENSITY},
    "mest": {"name": "mest", "density": DENSITY},
    "granet": {"name": "granet", "density": DENSITY},
    "east": {"name": "east", "density": DENSITY, "dyrelu": None, "cyclic": None},
}
LENET = {"model": {"name": "lenet_300_100", "width": None}, "data": {"name": "digits", "batch_size": 128}}
AMORTISED = 100
"""Steps between updates that their cost is spread over, RigL's default."""


def run(smoke: bool) -> dict[str, Any]:
    figures = [*beside_by_hand(smoke), *masks_beside_dense(smoke), *updates(smoke)]
    show("steps", figures)
    return {"figures": [figure.plain() for figure in figures]}


def beside_by_hand(smoke: bool) -> Iterator[Figure]:
    cases: list[tuple[str, dict[str, Any], float, int]] = [
        ("ResNet, batch 512", {"data": {"batch_size": 512}}, 0.98, on(20, 1)),
        ("ResNet, batch 128", {"data": {"batch_size": 128}}, 0.95, on(50, 2)),
        ("LeNet-300-100, batch 100", {**LENET, "data": {"name": "synthetic", "image_size": 16, "batch_size": 100}},
         0.95, 200),
    ]  # fmt: skip
    for name, sections, goal, n in cases:
        if smoke:
            sections, n = {**sections, "model": sections.get("model", {"width": 2}), "data": {"batch_size": 16}}, 1
        job = job_of(**sections)
        ours, theirs = Stepping(job, n), by_hand(job, n)
        taken = take_turns({"harness": ours, "hand": theirs}, rounds=2 if smoke else 25)
        speed = ratios(taken["hand"], taken["harness"])
        rate = job.config.data.batch_size * n / median(taken["harness"])
        yield Figure(
            f"images/s over a loop by hand: {name}", speed, goal, 1.0, at_least=True, note=f"{rate:,.0f} images/s",
            profile=differences(ours, theirs, n, 1 if smoke else 5),
        )  # fmt: skip


def masks_beside_dense(smoke: bool) -> Iterator[Figure]:
    wanted = ("set", "east") if smoke else tuple(MASK_METHODS)
    n, rounds = (1, 2) if smoke else (on(30, 1), 121)
    sections: dict[str, Any] = {"model": {"width": 2}} if smoke else {}
    dense = Stepping(job_of(**sections), n)
    for name in wanted:  # in pairs, step by step: what is asked for is less than what a machine drifts by in a minute
        sparse = Stepping(job_of(method=MASK_METHODS[name], **sections), n)
        taken = take_turns({"dense": dense, name: sparse}, rounds)
        profile = differences(sparse, dense, n, 1 if smoke else 20)
        yield Figure(f"step of {name} over dense", ratios(taken[name], taken["dense"]), 1.02, 1.005, profile=profile)
    n, rounds = (2, 2) if smoke else (200, 9)
    small = {name: Stepping(job_of(method=MASK_METHODS[name], **LENET), n) for name in ("set", "rigl")}
    taken = take_turns({"dense": Stepping(job_of(**LENET), n), **small}, rounds)
    for name in small:
        note = "a step of a millisecond; no goal for networks so small"
        yield Figure(f"step of {name} over dense: LeNet-300-100", ratios(taken[name], taken["dense"]), note=note)


class MethodTime(Parts):
    """Seconds in which the loop worked for the method."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0

    def __call__(self, part: str) -> AbstractContextManager[None]:
        return self._timed() if part == "method" else NOTHING

    @contextmanager
    def _timed(self) -> Iterator[None]:
        wait_for(self.device)
        began = time.perf_counter()
        yield
        wait_for(self.device)
        self.seconds += time.perf_counter() - began


def updates(smoke: bool) -> Iterator[Figure]:
    """All that an update costs beside its step: holding gradients, scores, masks, weights, momentum, checks."""
    wanted, n = (("set",), 2) if smoke else (tuple(UPDATING), 8)
    sections: dict[str, Any] = {"model": {"width": 2}} if smoke else {}
    for name in wanted:
        options = {**UPDATING[name], "interval": 1}
        job = job_of(method=options, schedule={"steps": 100_000}, **sections)
        job.parts = clock = MethodTime(job.engine.device)
        stepping = Stepping(job, 1)
        stepping()
        shares = []
        for _ in range(n):
            before, began = clock.seconds, time.perf_counter()
            stepping()
            step, update = time.perf_counter() - began, clock.seconds - before
            shares.append(update / (AMORTISED * (step - update)))
        note = f"every {AMORTISED} steps"
        yield Figure(f"topology updates over step: {name}", tuple(shares), 0.01, 0.002, note=note)
