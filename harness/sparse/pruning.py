"""What methods that only ever keep the largest magnitudes share: their budgets over time, and the choice itself."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from harness.config.schema import MethodOptions
from harness.sparse.budgets import Shapes, layer_budgets, total_budget
from harness.sparse.masks import MaskedWeight, WeightView
from harness.sparse.method import Masks, Method
from harness.sparse.selection import top_k_mask


def top_k_over_layers(scores: Mapping[str, Tensor], k: int, among: Mapping[str, Tensor] | None = None) -> Masks:
    """Keep exactly the `k` largest scores of all layers; ties go to the earlier layer, then to the lower index."""
    flat = torch.cat([score.reshape(-1) for score in scores.values()])
    candidates = torch.cat([among[layer].reshape(-1) for layer in scores]) if among is not None else None
    chosen = top_k_mask(flat, k, among=candidates).split([score.numel() for score in scores.values()])
    return {layer: mask.view(scores[layer].shape) for layer, mask in zip(scores, chosen, strict=True)}


def largest_within(
    scores: Mapping[str, Tensor],
    budgets: Mapping[str, int] | None,
    total: int,
    among: Mapping[str, Tensor] | None = None,
) -> Masks:
    """Keep the largest scores: of each layer as many as its budget, or without budgets `total` of all layers."""
    if budgets is None:
        return top_k_over_layers(scores, total, among)
    return {layer: top_k_mask(scores[layer], k, among[layer] if among else None) for layer, k in budgets.items()}


class PruningOptions(MethodOptions):
    distribution: Literal["global", "uniform", "erk", "er"] = "global"
    """Which weights compete: those of all layers, or of each layer for a budget of its own."""


class Selecting(Method):
    """Keeps the largest of some scores: those of all layers, or of each layer as many as its budget says."""

    Options: ClassVar[type[MethodOptions]] = PruningOptions
    options: PruningOptions
    takes_density: ClassVar[bool] = True

    def bind(self, n_weights: int, shapes: Shapes) -> None:
        self.n_weights, self.shapes = n_weights, shapes
        self.target = total_budget(self.options.density, n_weights)
        distribution = self.options.distribution
        if distribution == "global":
            self.layer_targets = None
        else:
            self.layer_targets = layer_budgets(shapes, self.target, distribution)

    def views(self) -> dict[str, WeightView]:
        return {layer: MaskedWeight(torch.ones(shape, dtype=torch.bool)) for layer, shape in self.shapes.items()}

    def budgets_after(self, share: float) -> dict[str, int] | None:
        """Weights per layer where `share` of all that is to be pruned is pruned; None where all layers compete.

        Each layer goes from whole to its target in the same proportion, so none ever grows and the end is exact.
        """
        if self.layer_targets is None:
            return None
        sizes = {layer: math.prod(shape) for layer, shape in self.shapes.items()}
        return {layer: n - math.floor((n - self.layer_targets[layer]) * share) for layer, n in sizes.items()}

    def total_after(self, share: float) -> int:
        budgets = self.budgets_after(share)
        if budgets is not None:
            return sum(budgets.values())
        return self.n_weights - math.floor((self.n_weights - self.target) * share)

    def largest(self, scores: Mapping[str, Tensor], share: float, among: Mapping[str, Tensor] | None = None) -> Masks:
        """The masks where `share` of all that is to be pruned is pruned: 0 is dense, 1 the target."""
        return largest_within(scores, self.budgets_after(share), self.total_after(share), among)


class MagnitudePruning(Selecting, ABC):
    """Dense at first; at some steps the largest magnitudes stay, as many as the density of the step says."""

    @property
    def monotone(self) -> bool:
        """Whether what is pruned stays pruned."""
        return True

    @abstractmethod
    def pruned_share(self, step: int) -> float:
        """How much of all that is to be pruned is pruned after `step` steps: 0 is dense, 1 the target."""

    def total_at(self, step: int) -> int:
        return self.total_after(self.pruned_share(step))

    def budgets_at(self, step: int) -> dict[str, int] | None:
        return self.budgets_after(self.pruned_share(step))

    def new_masks(self, step: int) -> Masks:
        scores = {layer: self.tensors.weight(layer).abs() for layer in self.shapes}
        among = {layer: self.tensors.mask(layer) for layer in self.shapes} if self.monotone else None
        return largest_within(scores, self.budgets_at(step), self.total_at(step), among)

    def is_final(self, step: int) -> bool:
        return self.pruned_share(step) == 1
