"""Run by each of two processes: trains a small run in which rank 1 has a fault; what the run says of it is printed."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from baselines.snip import SNIP
from harness.config import build_config
from harness.data.batches import Share
from harness.errors import CheckFailed
from harness.train import checks, evaluate, loop
from harness.train.engine import Engine
from harness.train.job import Job
from harness.train.run import execute

CONFIG: dict[str, Any] = {
    "model": {"name": "lenet_300_100"},
    "data": {"name": "digits", "batch_size": 240},  # five steps an epoch
    "method": {"name": "rigl", "density": 0.2, "interval": 4},
    "schedule": {"epochs": 4},
}


def after_step(step: int, fault: Callable[[Engine], None], on_both: bool = False) -> None:
    """The fault happens on rank 1 once this step is taken, before what follows it."""
    take_step = loop.take_step

    def taken(job: Job, now: int, batch: Any) -> Any:
        loss = take_step(job, now, batch)
        if now == step and (on_both or job.engine.ranks.rank == 1):
            with torch.no_grad():
                fault(job.engine)
        return loss

    loop.take_step = taken


def flip_mask(engine: Engine) -> None:
    new = engine.mask("fc2").clone()
    flat = new.view(-1)
    flat[[int(flat.nonzero()[-1]), int((~flat).nonzero()[0])]] = torch.tensor([False, True])  # the count is right
    engine.set_mask("fc2", new)


def write_past_the_budget(engine: Engine) -> None:
    mask = engine.mask("fc2").view(-1)
    mask[int((~mask).nonzero()[0])] = True


def resurrect(engine: Engine) -> None:
    """As a sharded optimizer does whose own copy of the weights was not masked."""
    weights = engine.read(engine.stored("fc1")).clone()
    engine.write(engine.stored("fc1"), weights + 0.1 * ~engine.mask("fc1"))


def own_gradient(engine: Engine) -> None:
    engine.write(engine.stored("classifier"), engine.read(engine.stored("classifier")) * (1 + 1e-6))


def count_twice() -> None:
    whole = evaluate.evaluate

    def counted(engine: Engine, loader: Any, split: Any) -> Any:
        loader.share = Share(0, 1)  # both ranks take every image
        return whole(engine, loader, split)

    loop.evaluate = counted


def main() -> None:
    fault, engine, rank = sys.argv[1], sys.argv[2], int(os.environ["RANK"])
    seed, settings = 0, dict(CONFIG)
    settings["engine"] = {"device": "cpu", "workers": 2, "name": engine, "zero_stage": int(engine == "deepspeed")}
    if fault == "a mask changed on one rank":
        after_step(9, flip_mask)
    elif fault == "a method that writes past its budget":
        after_step(9, write_past_the_budget)
    elif fault == "a weight that comes back":
        after_step(9, resurrect, on_both=True)
    elif fault == "a gradient that is not averaged":
        after_step(9, own_gradient)
    elif fault == "an evaluation that counts a sample twice":
        count_twice()
    elif fault == "a seed that differs by rank":
        seed = rank
    elif fault == "masks that cannot be chosen":
        settings["method"] = {"name": "snip", "density": 0.2}
        SNIP.choose_masks = lambda self, network, draw: {}
    elif fault == "another version on one rank":
        checks.software = lambda: f"torch 2.{15 - rank}"
    elif fault == "another kind of GPU on one rank":  # no GPU is needed to tell names apart
        checks.gpu_name = lambda device: f"H{rank + 1}00"
    elif fault == "a configuration that differs by rank":
        settings["optimizer"] = {"lr": 0.1 + 0.1 * rank}
    try:
        for event in execute(build_config(settings, "planted"), seed, Path(tempfile.gettempdir())):
            print("reached", event["status"] if "status" in event else event["step"])
    except CheckFailed as error:
        print(f"caught: {error}")


if __name__ == "__main__":
    main()
