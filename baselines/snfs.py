from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from harness.config.schema import RunConfig
from harness.errors import HarnessError
from harness.sparse.budgets import Distribution, Shapes, apportion, total_budget
from harness.sparse.masks import HiddenWeight, WeightView, counts
from harness.sparse.method import Masks, SparseMethod, SparseOptions
from harness.sparse.schedules import CosineDrop
from harness.sparse.selection import top_k_mask


class SNFSOptions(SparseOptions):
    name: str = "snfs"
    distribution: Distribution = "uniform"
    drop_fraction: float = Field(0.5, gt=0, lt=1)
    final_drop_fraction: float = Field(0.005, ge=0, lt=1)
    interval: int | None = Field(None, ge=1)
    """Optimizer steps between updates; None: an epoch."""

    fullest: float = Field(0.99, gt=0, le=1)
    """Most of a layer's free positions that one update grows."""


class DenseMomentum(HiddenWeight):
    """Every position has a gradient and a momentum; weights outside the mask are zero."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask, trains_all=True)

    def prepare(self, theta: Tensor) -> None:
        theta.mul_(self.mask)

    def survivors(self, new: Tensor) -> tuple[Tensor, None]:
        return self.mask & new, None


class SNFS(SparseMethod):
    """Sparse networks from scratch: weights move to layers, and grow at places, where momentum is large."""

    Options: ClassVar = SNFSOptions
    options: SNFSOptions
    family: ClassVar[str] = "dynamic"
    source: ClassVar[str] = "Dettmers and Zettlemoyer 2019"

    @classmethod
    def check(cls, config: RunConfig) -> None:
        if config.optimizer.name == "sgd" and config.optimizer.momentum == 0:
            raise HarnessError("snfs grows where momentum is large: give optimizer.momentum above 0, or name=adam")

    def bind(self, n_weights: int, shapes: Shapes) -> None:
        super().bind(n_weights, shapes)
        o = self.options
        self.total = total_budget(o.density, n_weights)
        self.interval = o.interval or self.clock.steps_per_epoch
        self.drop = CosineDrop(start=o.drop_fraction, end=o.final_drop_fraction, until=self.clock.total_steps)

    def views(self) -> dict[str, WeightView]:
        return {layer: DenseMomentum(mask) for layer, mask in self.initial_masks().items()}

    def budgets_at(self, step: int) -> dict[str, int] | None:  # type: ignore[override]
        return self.target_budget if step < self.interval else None

    def total_at(self, step: int) -> int:
        return self.total

    def trained_at(self, step: int) -> dict[str, int]:
        return {layer: math.prod(shape) for layer, shape in self.shapes.items()}

    def update_due(self, step: int) -> bool:
        return step % self.interval == 0

    def before_step(self, step: int) -> None:
        """Momentum has moved what is outside the mask."""
        for layer in self.shapes:
            self.tensors.rewrite(self.tensors.stored(layer), ~self.tensors.mask(layer), 0.0)

    def new_masks(self, step: int) -> Masks:
        masks = {layer: self.tensors.mask(layer) for layer in self.shapes}
        momentum = {layer: self.tensors.momentum(layer).abs() for layer in self.shapes}
        n_active = counts(masks)
        rate = self.drop.at(step)
        n_dropped = {layer: math.ceil(rate * n) for layer, n in n_active.items()}
        kept = {
            layer: top_k_mask(self.tensors.weight(layer).abs(), n_active[layer] - n_dropped[layer], among=mask)
            for layer, mask in masks.items()
        }
        n_grown = self.shared_out(sum(n_dropped.values()), momentum, masks, kept)
        return {layer: kept[layer] | top_k_mask(momentum[layer], n_grown[layer], among=~kept[layer]) for layer in masks}

    def shared_out(self, total: int, momentum: Masks, masks: Masks, kept: Masks) -> dict[str, int]:
        """Weights to grow per layer, `total` in all, by the mean momentum of the weights each layer had."""
        shares = {
            layer: float(momentum[layer][mask].double().mean()) if mask.any() else 0.0 for layer, mask in masks.items()
        }
        free = counts({layer: ~mask for layer, mask in kept.items()})
        capacity = {layer: int(self.options.fullest * n) for layer, n in free.items()}
        return apportion(total, shares, capacity if sum(capacity.values()) >= total else free)
