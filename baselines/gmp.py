from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, model_validator

from harness.sparse.masks import HiddenWeight, WeightView
from harness.sparse.pruning import MagnitudePruning, PruningOptions


class GMPOptions(PruningOptions):
    name: str = "gmp"
    begin: float = Field(0.0, ge=0, lt=1)
    """Fraction of the run after which pruning starts."""

    end: float = Field(0.75, gt=0, le=1)
    """Fraction of the run after which the mask is fixed, at the target."""

    interval: int = Field(100, ge=1)
    """Optimizer steps between prunings."""

    power: float = Field(3.0, gt=0)
    recover: bool = False
    """Pruned weights keep value and momentum, and return if others shrink below them; otherwise they are gone."""

    @model_validator(mode="after")
    def _ordered(self) -> GMPOptions:
        if not self.begin < self.end:
            raise ValueError(f"pruning must end after it begins, got begin {self.begin:g} and end {self.end:g}")
        return self


class GMP(MagnitudePruning):
    """Gradual magnitude pruning: sparsity rises along 1 - (1 - p)^3 from a dense network to the target."""

    Options: ClassVar = GMPOptions
    options: GMPOptions
    family: ClassVar[str] = "dense to sparse"
    source: ClassVar[str] = "Zhu and Gupta 2017"

    @property
    def window(self) -> tuple[int, int]:
        total = self.clock.total_steps
        return round(self.options.begin * total), round(self.options.end * total)

    def update_due(self, step: int) -> bool:
        first, last = self.window
        return first < step <= last and ((step - first) % self.options.interval == 0 or step == last)

    def pruned_share(self, step: int) -> float:
        first, last = self.window
        if step >= last:
            return 1.0
        since = max(0, step - first)
        p = (since - since % self.options.interval) / (last - first)
        return 1 - (1 - p) ** self.options.power

    def views(self) -> dict[str, WeightView]:
        if not self.options.recover:
            return super().views()
        masks = {layer: torch.ones(shape, dtype=torch.bool) for layer, shape in self.shapes.items()}
        return {layer: HiddenWeight(mask, trains_all=False) for layer, mask in masks.items()}

    @property
    def monotone(self) -> bool:
        return not self.options.recover
