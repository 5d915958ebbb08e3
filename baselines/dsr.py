from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from harness.sparse.budgets import Distribution, Shapes, apportion, total_budget
from harness.sparse.masks import MaskedWeight, WeightView, counts
from harness.sparse.method import Masks, SparseMethod, SparseOptions
from harness.sparse.noise import keyed_uniform
from harness.sparse.selection import top_k_mask


class DSROptions(SparseOptions):
    name: str = "dsr"
    distribution: Distribution = "uniform"
    n_pruned: int = Field(600, ge=1)
    """Weights that an update is to prune, of all layers together."""

    pruned_share: float | None = Field(None, gt=0, lt=1)
    """Instead of their number, their share of the budget: the same at every density."""

    threshold: float = Field(1e-3, gt=0)
    """Magnitude below which weights are pruned, at first: it doubles or halves to keep that number."""

    intervals: tuple[int, ...] = (100, 200, 400, 800)
    """Optimizer steps between updates ..."""

    interval_starts: tuple[float, ...] = (0.0, 0.125, 0.4, 0.7)
    """... from these fractions of the run on."""

    stop: float = Field(0.95, gt=0, le=1)
    """Fraction of the run after which the topology is fixed."""

    @model_validator(mode="after")
    def _match(self) -> DSROptions:
        starts = self.interval_starts
        if len(self.intervals) != len(starts) or starts[:1] != (0.0,) or list(starts) != sorted(starts):
            raise ValueError(f"needs one rising start per interval, the first 0: {self.intervals}, {starts}")
        return self


class ThresholdWeight(MaskedWeight):
    """A mask, and the threshold that all layers share."""

    threshold: Tensor

    def __init__(self, mask: Tensor, threshold: float) -> None:
        super().__init__(mask)
        self.register_buffer("threshold", torch.full((1,), threshold, dtype=torch.float64))


class DSR(SparseMethod):
    """Prunes below one threshold for all layers, and grows as many at random, most where most survived."""

    Options: ClassVar = DSROptions
    options: DSROptions
    family: ClassVar[str] = "dynamic"
    source: ClassVar[str] = "Mostafa and Wang 2019"

    def bind(self, n_weights: int, shapes: Shapes) -> None:
        super().bind(n_weights, shapes)
        o, self.total = self.options, total_budget(self.options.density, n_weights)
        self.n_pruned = o.n_pruned if o.pruned_share is None else max(1, round(o.pruned_share * self.total))

    def views(self) -> dict[str, WeightView]:
        return {n: ThresholdWeight(mask, self.options.threshold) for n, mask in self.initial_masks().items()}

    def budgets_at(self, step: int) -> dict[str, int] | None:  # type: ignore[override]
        return self.target_budget if step == 0 else None

    def total_at(self, step: int) -> int:
        return self.total

    def update_due(self, step: int) -> bool:
        o, total = self.options, self.clock.total_steps
        if step == 0 or step > o.stop * total:
            return False
        phase = sum(step >= start * total for start in o.interval_starts) - 1
        return step % o.intervals[phase] == 0

    def gauges(self, step: int) -> dict[str, float]:
        return {**super().gauges(step), "threshold": float(self.threshold)}

    @property
    def threshold(self) -> Tensor:
        view = self.tensors.view(next(iter(self.shapes)))
        assert isinstance(view, ThresholdWeight)
        return view.threshold

    def new_masks(self, step: int) -> Masks:
        masks = {layer: self.tensors.mask(layer) for layer in self.shapes}
        kept = {layer: self.survivors(layer, mask) for layer, mask in masks.items()}
        n_kept = counts(kept)
        n_pruned = sum(counts(masks).values()) - sum(n_kept.values())
        self.move_threshold(n_pruned)
        n_grown = apportion(n_pruned, n_kept, counts({layer: ~mask for layer, mask in masks.items()}))
        return {layer: kept[layer] | self.grown(layer, step, n_grown[layer], ~masks[layer]) for layer in masks}

    def survivors(self, layer: str, mask: Tensor) -> Tensor:
        """At least one weight of a layer."""
        weight = self.tensors.weight(layer).abs()
        kept = mask & (weight >= self.threshold.to(weight))
        return kept if bool(kept.any()) else top_k_mask(weight, min(1, int(mask.sum())), among=mask)

    def move_threshold(self, n_pruned: int) -> None:
        wanted = self.n_pruned
        factor = 0.5 if n_pruned > 1.1 * wanted else 2.0 if n_pruned < 0.9 * wanted else 1.0
        now = self.threshold * factor
        for layer in self.shapes:
            view = self.tensors.view(layer)
            assert isinstance(view, ThresholdWeight)
            view.threshold.copy_(now)

    def grown(self, layer: str, step: int, n: int, free: Tensor) -> Tensor:
        return top_k_mask(keyed_uniform(free, self.seed, "grow", layer, step), n, among=free)
