"""What runs take on the machine that is asked: measured by the first steps of one like them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from harness.config.schema import RunConfig
from harness.data.batches import Split
from harness.train.job import Job, build_job, clock_of
from harness.train.loop import Meter, Progress, steps
from harness.train.profile import wait_for

WARM_UP = 3
MOST_STEPS = 50


def images_per_second(config: RunConfig, n_classes: int, seconds: float) -> float:
    """That a run's network trains on, fed with images that were drawn before: the loader takes no part."""
    drawn = config.data.model_copy(
        update={"name": "synthetic", "n_images": config.data.batch_size, "n_classes": n_classes, "loader": "auto"}
    )
    size = drawn.image_size or 224
    config = config.model_copy(update={"data": drawn.model_copy(update={"image_size": size})})
    with TemporaryDirectory() as folder:
        return config.data.batch_size / median(_step_times(build_job(config, 0, Path(folder)), seconds))


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a run on the devices it would train on, all its processes at work."""

    start_s: float
    """From a config to a network that can train: data, masks, scores at initialisation."""

    step_s: float
    """Median of some first optimizer steps; a topology update is seldom among them."""

    image_s: float
    """Of an evaluation, per image."""

    sizes: dict[Split, int]
    """Images per split."""

    def of(self, config: RunConfig) -> float:
        """Seconds of a run; `config` may differ in length, density and rounds from what was measured."""
        clock = clock_of(config, self.sizes["train"])
        every = max(1, round(config.evaluation.every_epochs * clock.steps_per_epoch))
        n_images = math.ceil(clock.total_steps / every) * self.sizes["validation"] + self.sizes["test"]
        return self.start_s + clock.total_steps * self.step_s + n_images * self.image_s


def measure_cost(config: RunConfig, seed: int, seconds: float = 1.5) -> Cost:
    """Build the run, take steps for about `seconds`, evaluate for about as long at most; nothing of it is kept."""
    began = time.perf_counter()
    with TemporaryDirectory() as folder:
        job = build_job(config, seed, Path(folder))
        start_s = time.perf_counter() - began
        step_s = median(_step_times(job, seconds))
        return Cost(start_s, step_s, _image_time(job, seconds), dict(job.loader.sizes))


def _step_times(job: Job, seconds: float) -> Iterator[float]:
    until, began = math.inf, time.perf_counter()
    for step in steps(job, Progress(), Meter(job.engine.device)):
        wait_for(job.engine.device)
        now = time.perf_counter()
        if step == WARM_UP:
            until = now + seconds
        if step > WARM_UP or step == job.clock.total_steps:
            yield now - began
        over = torch.tensor(step == WARM_UP + MOST_STEPS or now > until, dtype=torch.float32, device=job.engine.device)
        if job.engine.ranks.max(over).item():  # all stop at the same step, or the rest would wait for one another
            return
        began = time.perf_counter()


@torch.no_grad()
def _image_time(job: Job, seconds: float) -> float:
    job.engine.model.eval()
    began, n_images = time.perf_counter(), 0
    for batch in job.loader.evaluate("validation"):
        job.engine.forward(batch.images)
        n_images += len(batch.images)
        wait_for(job.engine.device)
        if time.perf_counter() > began + seconds:
            break
    return (time.perf_counter() - began) / (n_images * job.engine.ranks.world_size)
