from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator
from torch import Tensor

from baselines.set import SET, SETOptions
from harness.sparse.budgets import Distribution, Shapes
from harness.sparse.selection import top_k_mask


class MESTOptions(SETOptions):
    name: str = "mest"
    distribution: Distribution = "uniform"
    stop: float = Field(1.0, gt=0, le=1)
    boundaries: tuple[float, float] = (0.5625, 0.75)
    """Fractions of the run where the bounds change: epochs 90 and 120 of 160."""

    pruned_to: tuple[float, float, float] = (0.8, 0.9, 1.0)
    """An update first prunes to this multiple of the density, before, between and after the boundaries (EM)."""

    grown_to: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """... and grows back to this one. EM&S: pruned_to (1, 1, 1) and grown_to (1.5, 1.25, 1)."""

    gradient_weight: float = Field(0.0, ge=0)
    """Weights are pruned by |w| + this * |gradient|."""

    @model_validator(mode="after")
    def _bounds(self) -> MESTOptions:
        if any(low > high for low, high in zip(self.pruned_to, self.grown_to, strict=True)):
            raise ValueError(f"pruned_to {self.pruned_to} must not exceed grown_to {self.grown_to}")
        if not 0 < self.boundaries[0] <= self.boundaries[1] <= 1:
            raise ValueError(f"boundaries are rising fractions of the run, got {self.boundaries}")
        if self.grown_to[2] != 1:
            raise ValueError(f"grown_to must end at 1, the density that is asked for, got {self.grown_to}")
        return self


class MEST(SET):
    """Elastic mutation: an update prunes below the budget and grows back at random; both bounds change over time."""

    Options: ClassVar[type[SETOptions]] = MESTOptions
    options: MESTOptions
    source: ClassVar[str] = "Yuan et al. 2021"

    def bind(self, n_weights: int, shapes: Shapes) -> None:
        super().bind(n_weights, shapes)
        self.pruned = [self.budget_for(min(1.0, f * self.options.density)) for f in self.options.pruned_to]
        self.grown = [self.budget_for(min(1.0, f * self.options.density)) for f in self.options.grown_to]

    def phase(self, step: int) -> int:
        return sum(step >= b * self.clock.total_steps for b in self.options.boundaries)

    def budgets_at(self, step: int) -> dict[str, int]:
        """Those of the last update at or before `step`."""
        last = min(step, self.last_step) // self.options.interval * self.options.interval
        return self.grown[self.phase(last)]

    def is_final(self, step: int) -> bool:
        return self.budgets_at(step) == self.grown[2]

    def needs_gradient(self, step: int) -> bool:
        return self.options.gradient_weight > 0 and self.update_due(step)

    def drop_and_grow(self, layer: str, step: int) -> Tensor:
        mask, score = self.tensors.mask(layer), self.tensors.weight(layer).abs()
        if self.options.gradient_weight > 0:
            score = score + self.options.gradient_weight * self.tensors.gradient(layer).abs()
        n_kept = min(self.pruned[self.phase(step)][layer], int(mask.sum()))
        kept = top_k_mask(score, n_kept, among=mask)
        return kept | top_k_mask(self.grow_score(layer, step), self.budgets_at(step)[layer] - n_kept, among=~kept)


class EMSOptions(MESTOptions):
    name: str = "mest_ems"
    pruned_to: tuple[float, float, float] = (1.0, 1.0, 1.0)
    grown_to: tuple[float, float, float] = (1.5, 1.25, 1.0)


class EMS(MEST):
    """MEST that starts denser than it ends (elastic mutation and sparsification)."""

    Options: ClassVar[type[SETOptions]] = EMSOptions
