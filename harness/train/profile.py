"""Where the time of a run goes: by part of a step, against the rate of the device's matrix products, and a trace."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from harness.train.job import Job

NOTHING = nullcontext()
WARM_UP = 10
"""Steps before anything is measured: compiling, choosing kernels, filling caches."""

TRACED = 5
"""Steps in the trace, after those that are timed: tracing slows them."""

PROFILE, TRACE = "profile.json", "trace.json.gz"


class Parts:
    """The parts of a step as the loop names them. This one measures nothing and costs next to nothing."""

    def __call__(self, part: str) -> AbstractContextManager[None]:
        return NOTHING

    def stepped(self, job: Job) -> None:
        """A step has ended."""


class Profile(Parts):
    """Times each part over `n_steps` steps, waiting for the device at both ends of a part, then traces a few more.

    Waiting keeps host and device from working side by side, so the parts add up to more than a step of an unwatched
    run; images_per_second is of the same steps and so a lower bound on a GPU. tell: called with what was found.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], None], n_steps: int = 50) -> None:
        self.tell, self.n_steps, self.done = tell, n_steps, 0
        self.seconds: dict[str, float] = {}
        self.found: dict[str, Any] | None = None
        self._tracer: torch.profiler.profile | None = None
        self._matmul_flops = 0.0

    def __call__(self, part: str) -> AbstractContextManager[None]:
        return self._timed(part) if self.done >= WARM_UP and self.found is None else NOTHING

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        wait_for(self._device)
        began = time.perf_counter()
        yield
        wait_for(self._device)
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began

    def stepped(self, job: Job) -> None:
        self._device = job.engine.device
        self.done += 1
        if self.done == WARM_UP:
            self._matmul_flops = matmul_rate(self._device, job.config.engine.precision)
            self._began = time.perf_counter()
        elif self.done == WARM_UP + self.n_steps:
            self._summarise(job, time.perf_counter() - self._began)
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it reports each start and stop on stderr
            self._tracer = torch.profiler.profile(activities=_activities(self._device))
            self._tracer.start()
        elif self.done == WARM_UP + self.n_steps + TRACED and self._tracer is not None:
            self._tracer.stop()
            if job.record is not None:
                self._tracer.export_chrome_trace(str(job.run_dir / TRACE))
            self._tracer = None

    def _summarise(self, job: Job, seconds: float) -> None:
        images = self.n_steps * job.config.data.batch_size / seconds
        flops = 2 * job.ledger.geometry.macs(job.ledger.sizes) * 3
        ranks = job.engine.ranks.world_size
        self.found = {
            "steps": self.n_steps,
            "step_ms": 1000 * seconds / self.n_steps,
            "parts_ms": {part: 1000 * s / self.n_steps for part, s in self.seconds.items()},
            "images_per_second": images,
            "dense_flops_per_image": flops,
            "matmul_flops_per_second": self._matmul_flops,
            "utilisation": images * flops / (ranks * self._matmul_flops),
        }
        self.found["parts_ms"]["other"] = self.found["step_ms"] - sum(self.found["parts_ms"].values())
        if job.record is not None:
            (job.run_dir / PROFILE).write_text(json.dumps(self.found, indent=1) + "\n")
            job.record.append("profile", **self.found)
            self.tell(self.found)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rate(device: torch.device, precision: str, seconds: float = 0.3) -> float:
    """FLOPs per second of large square matrix products on the device, as it is now, in a run's precision."""
    n = 8192 if device.type == "cuda" else 1024
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(n, n, device=device, dtype=kind) for _ in range(2))
    out, took = a @ b, [seconds]
    while len(took) < 4 or sum(took[1:]) < seconds:
        wait_for(device)
        began = time.perf_counter()
        torch.mm(a, b, out=out)
        wait_for(device)
        took.append(time.perf_counter() - began)
    return 2 * n**3 / min(took)


def _activities(device: torch.device) -> list[torch.profiler.ProfilerActivity]:
    kinds = [torch.profiler.ProfilerActivity.CPU]
    return [*kinds, torch.profiler.ProfilerActivity.CUDA] if device.type == "cuda" else kinds
