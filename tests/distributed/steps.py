"""Run by each process of the equality test: a few steps of every method on one engine, facts as JSON from rank 0."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from harness.config import build_config, registry
from harness.config.schema import ModelConfig
from harness.models.resnet import BasicBlock, ResNet
from harness.models.shape import InputShape
from harness.sparse.masks import digest
from harness.train.checks import check_agreement, check_counts
from harness.train.job import build_job
from harness.train.loop import adapt, take_step

N_STEPS = 16


def one_stage(config: ModelConfig, inputs: InputShape) -> ResNet:
    """Three blocks, enough to share weights in, and shallow: rounding is not amplified until it flips a mask."""
    return ResNet(BasicBlock, (3,), config, inputs)


registry.MODELS["one_stage"] = f"{__name__}:one_stage"
METHODS: dict[str, dict[str, Any]] = {
    "dense": {"name": "dense"},
    "static": {"name": "static", "density": 0.2},
    "set": {"name": "set", "density": 0.2, "interval": 4, "stop": 1.0},
    "rigl": {"name": "rigl", "density": 0.2, "interval": 4, "stop": 1.0},
    "rigl_append": {"name": "rigl", "density": 0.2, "interval": 4, "stop": 1.0, "style": "append"},
    "east": {
        "name": "east",
        "density": 0.2,
        "interval": 4,
        "dyrelu": {"start_epoch": 1, "end_epoch": 3},
        "cyclic": {"n_cycles": 1, "cycle_epochs": 2, "interval": 2, "multiplier": 2},
    },
}


def config_for(method: str, engine: dict[str, Any]) -> dict[str, Any]:
    clip = {"clip_norm": 1.0, "clip_rule": "dense" if method == "east" else "masked"}
    return {
        "model": {"name": "one_stage", "width": 16, "norm": "none"},
        "data": {"name": "digits", "batch_size": 240},  # five steps an epoch, the last of them smaller
        "method": METHODS[method],
        "optimizer": {"lr": 0.05, **clip},
        "schedule": {"steps": N_STEPS},
        "engine": {"device": "cpu", **engine},
    }


def run(method: str, engine: dict[str, Any]) -> dict[str, Any]:
    job = build_job(build_config(config_for(method, engine), method), seed=3, run_dir=Path("unused"))
    losses, digests, step = [], [], 0
    while step < N_STEPS:
        for batch in job.loader.train(job.clock.epoch(step)):
            adapt(job, step)
            step += 1
            loss = job.engine.ranks.sum(take_step(job, step, batch)) / batch.n_global
            losses.append(float(loss))
            if job.method.update_due(step):
                check_agreement(job.engine, step)
                digests.append(digest({name: m.mask for name, (_, m) in job.engine.layers.items()}))
            if step == N_STEPS:
                break
    check_counts(job.engine.model, job.method, step)
    state = job.engine.state()
    outside = {"": 0.0, "momentum.": 0.0}
    for prefix in outside:
        for name, (_, masked) in job.engine.layers.items():
            stored = state[f"{prefix}{name}.parametrizations.weight.original"]
            outside[prefix] = max(outside[prefix], float((stored * ~masked.mask).abs().max()))
    norms = {k: float(v.double().norm()) for k, v in state.items() if v.is_floating_point()}
    job.engine.close()
    return {
        "losses": losses,
        "digests": digests,
        "norms": norms,
        "weights_outside": outside[""],
        "momentum_outside": outside["momentum."],
    }


def main() -> None:
    engine, path = json.loads(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    facts = {method: run(method, engine) for method in METHODS}
    if int(os.environ.get("RANK", "0")) == 0:
        path.write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
