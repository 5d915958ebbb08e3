"""SGD, its parameter groups, and the learning-rate law of a config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from harness.config.schema import OptimizerConfig, ScheduleConfig
from harness.sparse.masks import maskable_modules, stored_weight
from harness.sparse.schedules import Rate


class SGD(torch.optim.SGD):
    """torch's SGD with two additions that every engine needs.

    `skip`: the next step changes nothing, when a topology update takes its place. `prepare`: momentum starts as zeros
    and not as nothing, the same to the arithmetic, so that it can be read and restored before the first step.
    """

    skip = False

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        return None if self.skip else super().step(closure)

    def prepare(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if group["momentum"]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> SGD:
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": trained}]
    if config.decay == "weights":
        weights = {id(stored_weight(module)[0]) for module in maskable_modules(model).values()}
        groups = [
            {"params": [p for p in trained if id(p) in weights]},
            {"params": [p for p in trained if id(p) not in weights], "weight_decay": 0.0},
        ]
    return SGD(
        [g for g in groups if g["params"]], lr=config.lr, momentum=config.momentum,
        nesterov=config.nesterov, weight_decay=config.weight_decay,
    )  # fmt: skip


def build_rate(schedule: ScheduleConfig, base: float, total_steps: int) -> Rate:
    return Rate(
        base=base, law=schedule.law, total_steps=total_steps, factor=schedule.factor,
        warmup_steps=round(schedule.warmup * total_steps),
        milestone_steps=tuple(round(m * total_steps) for m in schedule.milestones),
    )  # fmt: skip
