"""DyReLU-B with K = 2 pieces, morphed into plain ReLU (Chen et al. 2020; phasing: EAST, spec 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.config.schema import Section
from harness.errors import HarnessError
from harness.sparse.masks import masked
from harness.sparse.schedules import Clock


class DyReLUOptions(Section):
    reduction: int = Field(4, ge=1)
    """Channels of the hyper-network's hidden layer: C / reduction."""

    changes: Literal["epoch", "step"] = "epoch"
    """How often beta changes: once per epoch, or with every optimizer step."""

    start_epoch: float | None = Field(None, ge=0)
    """Epoch from which beta falls, the run starting at 1.0; floor(E / 2) / 2 by default."""

    end_epoch: float | None = Field(None, gt=0)
    """Epoch from which beta is 0, where DyReLU is replaced by ReLU; floor(E / 2) - 1 by default."""

    freeze_epoch: float | None = None
    """Epoch from which the hyper-networks are no longer trained; never by default, as in the published runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """beta is 1 before epoch `start`, 0 from epoch `end` on, linear between. The first epoch is 1."""

    start: float
    end: float
    every_step: bool
    clock: Clock

    @classmethod
    def of(cls, options: DyReLUOptions, clock: Clock) -> Phase:
        half = math.floor(clock.epochs / 2)
        start = half / 2 if options.start_epoch is None else options.start_epoch
        end = half - 1 if options.end_epoch is None else options.end_epoch
        if not start < end:
            raise HarnessError(
                f"method.dyrelu: the phase-out must end after it starts, got epochs {start:g} to {end:g} of "
                f"{clock.epochs:g}: give start_epoch and end_epoch"
            )
        phase = cls(start=start, end=end, every_step=options.changes == "step", clock=clock)
        if phase.epoch(clock.total_steps - 1) < end:
            raise HarnessError(
                f"method.dyrelu: the run would end with DyReLU in it: end_epoch {end:g} is after the last of "
                f"{clock.epochs:g} epochs"
            )
        return phase

    def epoch(self, step: int) -> float:
        """Where the next step stands, after `step` steps: an epoch's number, or that and the fraction done of it."""
        return 1 + step / self.clock.steps_per_epoch if self.every_step else self.clock.epoch(step)

    def beta(self, step: int) -> float:
        """Blend with which the next step is taken, after `step` steps."""
        epoch = self.epoch(step)
        if epoch < self.start:
            return 1.0
        if epoch >= self.end:
            return 0.0
        return 1 - (epoch - self.start) / (self.end - self.start)


class _LargerPiece(torch.autograd.Function):
    """max(a1 x + b1, a2 x + b2) that keeps x and a byte of each place for the backward pass, and neither of the pieces.

    The larger piece gets the gradient, the first where they are equal. Computed in the coefficients' type, returned in
    that of x: under autocast a network's activations stay 16 bits wide.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor) -> Tensor:
        first, second = (a1 * x).add_(b1), (a2 * x).add_(b2)  # in place, as memory costs more than arithmetic
        is_first = first >= second
        ctx.save_for_backward(x, a1, a2, is_first)
        return torch.maximum(first, second, out=second).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, a1, a2, is_first = ctx.saved_tensors
        gradient = gradients[0].to(a1.dtype)
        to_first = masked(gradient, is_first)
        to_second = gradient - to_first
        to_x = (to_first * a1).add_(to_second * a2).to(x.dtype)
        if not ctx.needs_input_grad[1]:
            return to_x, None, None, None, None
        over = tuple(range(2, x.dim()))

        def summed(values: Tensor) -> Tensor:
            return values.sum(over, keepdim=True) if over else values.clone()

        to_b1, to_b2 = summed(to_first), summed(to_second)
        return to_x, summed(to_first.mul_(x)), to_b1, summed(to_second.mul_(x)), to_b2


class DyReLU(nn.Module):
    """max(a1 x + b1, a2 x + b2), the coefficients per sample and channel from a small dense hyper-network.

    Coefficients are blended, not outputs: beta * dynamic + (1 - beta) * [1, 0, 0, 0].
    Input and output: [batch, channel, ...]. The hyper-network is dense and outside the density count.
    """

    maskable = False
    beta: Tensor
    scale: Tensor
    plain: Tensor

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.channels = channels
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, 4 * channels)
        # a tensor, so that a new beta is not a new program for a compiler
        self.register_buffer("beta", torch.ones(()), persistent=False)
        self.register_buffer("scale", torch.tensor([1.0, 1.0, 0.5, 0.5]).view(4, 1), persistent=False)
        self.register_buffer("plain", torch.tensor([1.0, 0.0, 0.0, 0.0]).view(4, 1), persistent=False)

    def coefficients(self, x: Tensor) -> Tensor:
        """[batch, 4, channel]: a1, a2, b1, b2 after blending."""
        # the mean, to the bit; its own backward pass would write what is the same in every place as a whole image
        pooled = x.flatten(2).sum(2) / x.shape[2:].numel() if x.dim() > 2 else x
        theta = 2 * torch.sigmoid(self.excite(torch.relu(self.squeeze(pooled)))) - 1
        dynamic = theta.view(-1, 4, self.channels) * self.scale + self.plain
        return self.beta * dynamic + (1 - self.beta) * self.plain

    def forward(self, x: Tensor) -> Tensor:
        shape = (x.shape[0], self.channels, *[1] * (x.dim() - 2))
        a1, a2, b1, b2 = (c.reshape(shape) for c in self.coefficients(x).unbind(1))
        larger: Tensor = _LargerPiece.apply(x, a1, b1, a2, b2)
        return larger


def put_dyrelu(model: nn.Module, reduction: int) -> int:
    """Replace every activation that knows its channels by a DyReLU; returns how many."""
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ReLU) and hasattr(child, "channels")
    ]
    for parent, name, child in places:
        setattr(parent, name, DyReLU(cast(int, child.channels), reduction))
    return len(places)


def remove_dyrelu(model: nn.Module) -> int:
    """Replace every DyReLU by a plain ReLU, its hyper-network gone; returns how many."""
    places = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, DyReLU)
    ]
    for parent, name in places:
        setattr(parent, name, nn.ReLU())
    return len(places)
