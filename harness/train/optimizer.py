"""Optimizers with readable state, their parameter groups, and the learning-rate law of a config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from harness.config.schema import OptimizerConfig, ScheduleConfig
from harness.sparse.masks import maskable_modules, stored_weight, viewed_layers
from harness.sparse.schedules import Rate


class Readable(torch.optim.Optimizer):
    """What every engine needs beside torch's optimizers.

    `skip`: the next step changes nothing, when a topology update takes its place. `prepare`: state starts as zeros and
    not as nothing, the same to the arithmetic, so that it can be read and restored before the first step.
    """

    slots: ClassVar[dict[str, str]]
    """State per parameter, of its shape: our name in checkpoints, and torch's."""

    skip = False

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        return None if self.skip else super().step(closure)

    def prepare(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter].update({name: torch.zeros_like(parameter) for name in self.slots.values()})

    @property
    def n_steps(self) -> int:
        """Steps taken, where the update depends on it."""
        return 0

    def set_steps(self, n: int) -> None:
        return None


class SGD(Readable, torch.optim.SGD):
    slots: ClassVar = {"momentum": "momentum_buffer"}


class PlainSGD(Readable, torch.optim.SGD):
    """Without momentum there is nothing to keep."""

    slots: ClassVar = {}


class Adam(Readable, torch.optim.Adam):
    slots: ClassVar = {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}

    def prepare(self) -> None:
        super().prepare()
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["step"] = torch.zeros(())

    @property
    def n_steps(self) -> int:
        return int(next(iter(self.state.values()))["step"])

    def set_steps(self, n: int) -> None:
        for state in self.state.values():
            state["step"].fill_(n)


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Readable:
    trained = [p for p in model.parameters() if p.requires_grad]
    views = [view for _, view in viewed_layers(model).values()]
    exempt = {id(p) for view in views if not view.own_parameters_decay for p in view.parameters()}
    if config.decay == "weights":
        weights = {id(stored_weight(module)[0]) for module in maskable_modules(model).values()}
        learned = {id(p) for view in views for p in view.parameters()}
        exempt |= {id(p) for p in trained} - weights - learned
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if id(p) not in exempt], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if id(p) in exempt], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    # One kernel for all on a GPU. On a CPU the fused kernels round the ends of a tensor differently from its middle, so
    # that a shard would not be what it is in the whole; lists of tensors give the same bits as one after another.
    on_gpu = trained[0].is_cuda
    how: dict[str, Any] = {"fused": True} if on_gpu else {"foreach": True}
    if config.name == "adam":
        return Adam(groups, lr=config.lr, betas=config.betas, **how)
    if config.momentum == 0:
        return PlainSGD(groups, lr=config.lr, **how)
    return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, **how)


def build_rate(schedule: ScheduleConfig, base: float, total_steps: int) -> Rate:
    return Rate(
        base=base, law=schedule.law, total_steps=total_steps, factor=schedule.factor,
        warmup_steps=round(schedule.warmup * total_steps),
        milestone_steps=tuple(round(m * total_steps) for m in schedule.milestones),
    )  # fmt: skip
