from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.config.schema import RunConfig
from harness.sparse.masks import LearnedMask, WeightView, masked
from harness.sparse.method import EmergentMethod, EmergentOptions


class DSTOptions(EmergentOptions):
    name: str = "dst"
    alpha: float = Field(5e-4, ge=0)
    """Weight of the penalty alpha * sum exp(-t) that pushes thresholds up."""

    reset_at: float = Field(0.01, ge=0, lt=1)
    """A layer that keeps no more than this share gets thresholds of 0, and so all its weights."""

    reset_off_after: float = Field(1.0, ge=0, le=1)
    """Fraction of the run after which layers are no longer reset. Below 1 is a deviation from the authors' code."""

    wd_on_t: bool = True
    """Weight decay on thresholds, as the authors have it. Without it another method: t has no equilibrium and grows."""


class _AboveThreshold(torch.autograd.Function):
    """theta where |theta| > t; backward, the step's derivative is H(x) = 2 - 4|x| up to .4, .4 up to 1, 0 beyond.

    With G the gradient of the output: d theta = G (mask + |theta| H), d t = - sum over a row of G theta H.
    """

    @staticmethod
    def forward(ctx: Any, theta: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        mask = theta.abs() > t
        ctx.mark_non_differentiable(mask)
        ctx.save_for_backward(theta, t, mask)
        return masked(theta, mask), mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        theta, t, mask = ctx.saved_tensors
        distance = (theta.abs() - t).abs_()
        beyond = distance > 1
        through = distance.mul_(-4).add_(2).clamp_(min=0.4).masked_fill_(beyond, 0).mul_(gradients[0]).mul_(theta)
        to_t = -through.flatten(1).sum(1).view_as(t)
        return masked(gradients[0], mask).add_(through.mul_(theta.sign())), to_t


class Threshold(LearnedMask):
    """theta where |theta| > t, t trained per output neuron or filter; both get gradients through the step."""

    resets: Tensor
    last_reset: Tensor

    def __init__(self, n_rows: int, n_dims: int, decays: bool) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(n_rows))
        self.own_parameters_decay = decays
        self.rows = (n_rows, *[1] * (n_dims - 1))
        self.register_buffer("resets", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last_reset", torch.zeros((), dtype=torch.int64))

    def kept(self, theta: Tensor) -> Tensor:
        return theta.abs() > self.threshold.view(self.rows)

    def forward(self, theta: Tensor) -> Tensor:
        effective, mask = _AboveThreshold.apply(theta, self.threshold.view(self.rows))
        self.n_kept = torch.count_nonzero(mask)
        return effective


class DST(EmergentMethod):
    """Dynamic sparse training with trainable thresholds: a weight takes part while it is above that of its neuron."""

    Options: ClassVar = DSTOptions
    options: DSTOptions
    family: ClassVar[str] = "learned thresholds"
    source: ClassVar[str] = "Liu et al. 2020"

    @classmethod
    def remarks(cls, config: RunConfig) -> list[str]:
        assert isinstance(config.method, DSTOptions)
        if config.method.alpha and (config.optimizer.weight_decay == 0 or not config.method.wd_on_t):
            return ["no weight decay on thresholds: they never settle, so density depends on the length of training"]
        return []

    def views(self) -> dict[str, WeightView]:
        return {name: Threshold(shape[0], len(shape), self.options.wd_on_t) for name, shape in self.shapes.items()}

    def thresholds(self) -> dict[str, Threshold]:
        views = {layer: self.tensors.view(layer) for layer in self.shapes}
        return {layer: view for layer, view in views.items() if isinstance(view, Threshold)}

    def extra_loss(self) -> Tensor:
        penalties = [torch.exp(-view.threshold).sum() for view in self.thresholds().values()]
        return self.options.alpha * torch.stack(penalties).sum()

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        """Layers that are dying get all their weights back. The optimizer's state of thresholds is left as it is."""
        if step > self.options.reset_off_after * self.clock.total_steps:
            return
        for layer, view in self.thresholds().items():
            mask = view.kept(self.tensors.stored(layer))
            dying = torch.count_nonzero(mask) <= math.floor(self.options.reset_at * mask.numel())
            self.tensors.rewrite(view.threshold, dying, 0.0)
            view.resets += dying
            view.last_reset.masked_fill_(dying, step)

    @torch.no_grad()
    def gauges(self, step: int) -> dict[str, float]:
        out = super().gauges(step)
        for layer, view in self.thresholds().items():
            out[f"threshold/{layer}"] = float(view.threshold.mean())
            out[f"resets/{layer}"] = float(view.resets)
        return out

    @torch.no_grad()
    def outcome(self) -> dict[str, Any]:
        views = self.thresholds()
        recent = self.clock.total_steps - 2 * self.clock.steps_per_epoch
        return {
            "resets": {layer: int(view.resets) for layer, view in views.items()},
            "reset_in_last_two_epochs": any(int(v.last_reset) > max(recent, 0) for v in views.values()),
            "thresholds": {
                layer: {
                    "min": float(view.threshold.min()),
                    "mean": float(view.threshold.mean()),
                    "max": float(view.threshold.max()),
                }
                for layer, view in views.items()
            },
        }
