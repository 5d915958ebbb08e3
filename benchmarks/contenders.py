"""What benchmarks compare: runs of the harness, a few steps at a time, and a loop written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from harness.config import build_config
from harness.train.job import Job, build_job
from harness.train.loop import Meter, Progress, steps
from harness.train.profile import wait_for

FOREVER = 10_000_000


def device() -> torch.device:
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def on(gpu: Any, cpu: Any) -> Any:
    """A size for the machine that is here."""
    return gpu if torch.cuda.is_available() else cpu


def job_of(**sections: Any) -> Job:
    """A run without a record, long enough that no topology update of a usual method comes before one asks for it."""
    plain: dict[str, Any] = {
        "model": {"name": "resnet34", "width": on(64, 16)},
        "data": {"name": "synthetic", "n_images": on(50_000, 4096), "batch_size": 128},
        "optimizer": {"lr": 0.01},
        "schedule": {"steps": FOREVER},
        "engine": {"precision": on("bf16", "fp32")},
        "tracking": {"uri": "none"},
    }
    for section, held in sections.items():
        plain[section] = {**plain.get(section, {}), **held}
    return build_job(build_config(plain, "benchmark"), 0, Path("unused"))


class Stepping:
    """Calling it takes `n` steps of a run and waits for the device."""

    def __init__(self, job: Job, n: int) -> None:
        self.job, self.n = job, n
        self.progress, self.meter = Progress(), Meter(job.engine.device)
        self._steps = steps(job, self.progress, self.meter)

    def __call__(self) -> None:
        for _ in range(self.n):
            next(self._steps)
        wait_for(self.job.engine.device)


def by_hand(job: Job, n: int) -> Callable[[], None]:
    """The loop that one would write for the dense network of a run, in the run's mode; as many steps a call."""
    config, where = job.config, job.engine.device
    network, on_gpu = build_job(config, 1, Path("unused")).engine.model, where.type == "cuda"
    if on_gpu:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    called = torch.compile(network, mode="reduce-overhead", dynamic=False) if on_gpu else network
    o = config.optimizer
    optimizer = torch.optim.SGD(
        network.parameters(), lr=o.lr, momentum=o.momentum, nesterov=o.nesterov, weight_decay=o.weight_decay,
        fused=on_gpu,
    )  # fmt: skip
    loader: Any = job.loader
    images, labels = loader.data["train"]
    n_whole = len(labels) // config.data.batch_size * config.data.batch_size
    total = torch.zeros((), device=where)

    def batches() -> Iterator[torch.Tensor]:
        while True:
            order = torch.randperm(len(labels), device=where)[:n_whole]
            yield from order.split(config.data.batch_size)

    feed = batches()

    def turn() -> None:
        for _ in range(n):
            index = next(feed)
            x = torch.addcmul(loader.shift, images[index].float(), loader.scale)
            if on_gpu:
                x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast(where.type, torch.bfloat16, enabled=config.engine.precision == "bf16"):
                loss = F.cross_entropy(called(x).float(), labels[index])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total.add_(loss.detach())
        wait_for(where)

    return turn
