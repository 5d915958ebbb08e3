"""Run by each process of the equality tests: every method of a comparison on one engine, facts as JSON from rank 0."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.config import build_config, registry
from harness.config.schema import ModelConfig
from harness.models.resnet import BasicBlock, ResNet
from harness.models.shape import InputShape
from harness.sparse.masks import digest
from harness.train import compiled
from harness.train.checks import check_masks, check_weights, current_masks
from harness.train.job import build_job
from harness.train.loop import adapt, take_step


def one_stage(config: ModelConfig, inputs: InputShape) -> ResNet:
    """Three blocks, enough to share weights in, and shallow: rounding is not amplified until it flips a mask."""
    return ResNet(BasicBlock, (3,), config, inputs)


def two_stages(config: ModelConfig, inputs: InputShape) -> ResNet:
    return ResNet(BasicBlock, (3, 3), config, inputs)


registry.MODELS["one_stage"] = f"{__name__}:one_stage"
registry.MODELS["two_stages"] = f"{__name__}:two_stages"

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
    "dst": {"name": "dst", "alpha": 1.0},  # so large that layers die and are reset within the 16 steps
    "dst_adam": {"name": "dst", "alpha": 1.0},
    "str": {"name": "str", "s_init": -3.0},
    "dns": {"name": "dns", "c_rate": 0.5, "begin": 0.25, "end": 1.0, "gamma": 0.01},
    "topkast": {"name": "topkast", "density": 0.2, "backward_density": 0.4, "interval": 4},
    "dctps": {"name": "dctps", "density": 0.2, "topology": "rigl", "interval": 4, "stop": 1.0},
    "gmp": {"name": "gmp", "density": 0.2, "interval": 4, "end": 1.0},
    "gmp_recover": {"name": "gmp", "density": 0.2, "interval": 4, "end": 1.0, "recover": True, "distribution": "erk"},
    "acdc": {"name": "acdc", "density": 0.2, "sparse_from": [0.25, 0.75], "dense_from": [0.5]},
    "imp": {"name": "imp", "density": 0.64, "rewind": 0.5},
    "snip": {"name": "snip", "density": 0.2, "norm_mode": "train"},
    "grasp": {"name": "grasp", "density": 0.2},
    "synflow": {"name": "synflow", "density": 0.2, "rounds": 5},
    "force": {"name": "force", "density": 0.2, "rounds": 4},
    "prospr": {"name": "prospr", "density": 0.2},
    "rigl_itop": {"name": "rigl_itop", "density": 0.2, "interval": 4},
    "deepr": {"name": "deepr", "density": 0.2, "noise": 0.1, "l1": 1e-3},
    "dsr": {"name": "dsr", "density": 0.2, "n_pruned": 100, "intervals": [4], "interval_starts": [0.0], "stop": 1.0},
    "snfs": {"name": "snfs", "density": 0.2, "interval": 4},
    "mest": {"name": "mest", "density": 0.2, "interval": 4, "gradient_weight": 1.0},
    "srigl": {"name": "srigl", "density": 0.2, "interval": 4, "stop": 1.0, "keep_neurons": []},
    "granet": {"name": "granet", "density": 0.2, "interval": 4, "initial_density": 1.0},
}
N_UPDATES = {
    "dense": 0,
    "static": 0,
    "dst": 0,
    "dst_adam": 0,
    "str": 0,
    "east": 7,
    "dns": 12,
    "acdc": 3,
    "imp": 0,
    "snip": 0,
    "grasp": 0,
    "synflow": 0,
    "force": 0,
    "prospr": 0,
    "deepr": 16,
}  # 4 else
HIDDEN = ("dense", "dst", "dst_adam", "str", "dns", "topkast", "gmp_recover", "snfs")
"""Methods without a mask outside which stored weights are zero."""


PHASE = {"changes": "step", "start_epoch": 3, "end_epoch": 15}
CYCLES = {"n_cycles": 2, "cycle_epochs": 6, "interval": 5}


def arm(**parts: Any) -> dict[str, Any]:
    return {"name": "east", "density": 0.05, "interval": 20, "dyrelu": None, "sharing": None, "cyclic": None, **parts}


ARMS: dict[str, dict[str, Any]] = {
    "rigl": arm(),
    "rigl at average density": arm(cyclic={**CYCLES, "hold_average": True}),
    "rigl+dyrelu": arm(dyrelu=PHASE),
    "rigl+sharing": arm(sharing={}),
    "rigl+cyclic": arm(cyclic=CYCLES),
    "rigl+dyrelu+sharing": arm(dyrelu=PHASE, sharing={}),
    "rigl+dyrelu+cyclic": arm(dyrelu=PHASE, cyclic=CYCLES),
    "rigl+sharing+cyclic": arm(sharing={}, cyclic=CYCLES),
    "east": arm(dyrelu=PHASE, sharing={}, cyclic=CYCLES),
}


SHORT = {
    **METHODS,
    "east": arm(density=0.2, interval=4, sharing={}),  # DyReLU must have gone before a run ends
    "granet": {**METHODS["granet"], "interval": 2},
}
"""All of them, for fewer than the sixteen steps that METHODS is made for."""


@dataclass(frozen=True, slots=True)
class Comparison:
    methods: dict[str, dict[str, Any]]
    model: dict[str, Any]
    lr: float
    steps: int


# `methods` ends before rounding is amplified, so it compares one batch with its halves too; `arms` learns
COMPARISONS = {
    "methods": Comparison(METHODS, {"name": "one_stage", "width": 16, "norm": "none"}, 0.05, 16),
    "bf16": Comparison(SHORT, {"name": "one_stage", "width": 8, "norm": "none"}, 0.05, 8),
    "arms": Comparison(ARMS, {"name": "two_stages", "width": 8}, 0.1, 200),
    "compiled": Comparison(
        {m: METHODS[m] for m in ("rigl", "east", "dst")}, {"name": "one_stage", "width": 16, "norm": "none"}, 0.05, 16
    ),
    # four steps, as the fifth batch does not divide by four
    "quarters": Comparison(SHORT, {"name": "one_stage", "width": 16, "norm": "none"}, 0.05, 4),
    # one rank alone scores the network of snip, grasp and prospr
    "ranks": Comparison(
        {m: METHODS[m] for m in ("static", "rigl_append", "dst", "snfs", "snip", "grasp", "prospr")},
        {"name": "one_stage", "width": 16, "norm": "sync"},
        0.05,
        4,
    ),
}


def config_for(comparison: Comparison, method: str, engine: dict[str, Any]) -> dict[str, Any]:
    clip = {"clip_norm": 1.0, "clip_rule": "dense" if method == "east" else "masked"}
    return {
        "model": comparison.model,
        "data": {"name": "digits", "batch_size": 240},  # five steps an epoch, the last of them smaller
        "method": comparison.methods[method],
        "optimizer": {"name": "adam", "lr": 0.01, **clip} if method.endswith("adam") else {"lr": comparison.lr, **clip},
        # lottery tickets train in rounds: one of 8 steps, and two from step 4 of it on
        "schedule": {"steps": comparison.steps // 2 if method == "imp" else comparison.steps},
        "engine": {"device": "cpu", **engine},
    }


def run(comparison: Comparison, method: str, engine: dict[str, Any]) -> dict[str, Any]:
    job = build_job(build_config(config_for(comparison, method, engine), method), seed=3, run_dir=Path("unused"))
    losses, digests, step = [], [], 0
    while step < comparison.steps:
        for batch in job.loader.train(job.clock.epoch(step)):
            adapt(job, step)
            step += 1
            loss = job.engine.ranks.sum(take_step(job, step, batch)) / batch.n_global
            losses.append(float(loss))
            if job.method.update_due(step):
                check_masks(job.engine, job.method, step)
                digests.append(digest(current_masks(job.engine)))
            if step == comparison.steps:
                break
    check_masks(job.engine, job.method, step)
    check_weights(job.engine, step)
    state = job.engine.state()
    slot = next(iter(job.engine.optimizer.slots))
    outside = {"": 0.0, f"optimizer.{slot}.": 0.0}
    for prefix in outside:
        for name, mask in current_masks(job.engine).items():
            stored = state[f"{prefix}{name}.parametrizations.weight.original"]
            outside[prefix] = max(outside[prefix], float((stored * ~mask).abs().max()))
    last_masks, outcome = digest(current_masks(job.engine)), job.method.outcome()
    norms = {k: float(v.double().norm()) for k, v in state.items() if v.is_floating_point()}
    job.engine.close()
    # of statistics over a batch, each rank has its own part; all else that training leaves is the same
    weights = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            weights.update(name.encode() + (tensor + 0).numpy().tobytes())  # -0.0 becomes 0.0
    return {
        "weights": weights.hexdigest(),
        "last_masks": last_masks,
        "outcome": outcome,
        "losses": losses,
        "digests": digests,
        "norms": norms,
        "weights_outside": outside[""],
        "momentum_outside": outside[f"optimizer.{slot}."],
    }


def main() -> None:
    comparison, engine, path = COMPARISONS[sys.argv[1]], json.loads(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    compiled.COMPILER = "aot_eager"  # where an engine compiles: traced as ever, but no code is generated
    facts = {method: run(comparison, method, engine) for method in comparison.methods}
    if int(os.environ.get("RANK", "0")) == 0:
        path.write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
