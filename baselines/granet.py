from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field, model_validator
from torch import Tensor

from harness.errors import HarnessError
from harness.sparse.budgets import Shapes, layer_budgets, total_budget
from harness.sparse.masks import counts
from harness.sparse.method import Masks, SparseMethod, SparseOptions, smallest_replaced
from harness.sparse.pruning import top_k_over_layers
from harness.sparse.schedules import CosineDrop


class GraNetOptions(SparseOptions):
    name: str = "granet"
    initial_density: float = Field(0.5, gt=0, le=1)
    """Density at the start, spread by `distribution`; 1 starts dense."""

    begin: float = Field(0.0, ge=0, lt=1)
    end: float = Field(0.5, gt=0, le=1)
    """Fractions of the run between which density falls along a cubic."""

    interval: int = Field(1000, ge=1)
    """Optimizer steps between updates."""

    drop_fraction: float = Field(0.5, gt=0, lt=1)
    final_drop_fraction: float = Field(0.005, ge=0, lt=1)

    @model_validator(mode="after")
    def _falls(self) -> GraNetOptions:
        if self.initial_density < self.density:
            raise ValueError(f"initial_density {self.initial_density:g} must be at least density {self.density:g}")
        if not self.begin < self.end:
            raise ValueError(f"density must reach its end after it begins to fall, got {self.begin:g} and {self.end:g}")
        return self


class GraNet(SparseMethod):
    """Gradual magnitude pruning over all layers, and at every pruning as many weights replaced as RigL would."""

    Options: ClassVar = GraNetOptions
    options: GraNetOptions
    family: ClassVar[str] = "dynamic"
    source: ClassVar[str] = "Liu et al. 2021 (GraNet)"

    def bind(self, n_weights: int, shapes: Shapes) -> None:
        self.n_weights, self.shapes = n_weights, shapes
        o, total = self.options, self.clock.total_steps
        self.first_total, self.target = total_budget(o.initial_density, n_weights), total_budget(o.density, n_weights)
        self.target_budget = layer_budgets(shapes, self.first_total, o.distribution)
        if self.target < len(shapes):
            layer_budgets(shapes, self.target, o.distribution)  # says why it cannot be
        self.window = math.ceil(o.begin * total / o.interval), math.floor(o.end * total / o.interval)
        if self.window[0] >= self.window[1]:
            raise HarnessError(
                f"granet: no update lies between {o.begin:g} and {o.end:g} of {total} steps: method.interval "
                f"{o.interval} is too long"
            )
        self.drop = CosineDrop(start=o.drop_fraction, end=o.final_drop_fraction, until=total)

    def budgets_at(self, step: int) -> dict[str, int] | None:  # type: ignore[override]
        return self.target_budget if step < self.options.interval else None

    def total_at(self, step: int) -> int:
        """In whole updates, as the authors count: sparsity 1 - (1 - share)^3 of the way."""
        first, last = self.window
        k = step // self.options.interval
        share = 1.0 if k >= last else max(0, k - first) / (last - first)
        return self.target + math.ceil((self.first_total - self.target) * (1 - share) ** 3)

    def is_final(self, step: int) -> bool:
        return self.total_at(step) == self.target

    def update_due(self, step: int) -> bool:
        return step % self.options.interval == 0

    def needs_gradient(self, step: int) -> bool:
        return self.update_due(step)

    def new_masks(self, step: int) -> Masks:
        weights = {layer: self.tensors.weight(layer).abs() for layer in self.shapes}
        pruned = top_k_over_layers(weights, self.total_at(step), {n: self.tensors.mask(n) for n in self.shapes})
        n_active = counts(pruned)
        return {layer: self.regrown(layer, step, mask, n_active[layer]) for layer, mask in pruned.items()}

    def regrown(self, layer: str, step: int, mask: Tensor, n_active: int) -> Tensor:
        n_kept = n_active - math.ceil(self.drop.at(step) * n_active)
        score = self.tensors.gradient(layer).abs()
        return smallest_replaced(mask, self.tensors.weight(layer), score, n_kept, n_active)
