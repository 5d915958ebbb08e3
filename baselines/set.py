from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from harness.sparse.budgets import Distribution
from harness.sparse.method import DropAndGrow, DropAndGrowOptions
from harness.sparse.noise import keyed_uniform
from harness.sparse.selection import top_k_mask


class SETOptions(DropAndGrowOptions):
    name: str = "set"


class SET(DropAndGrow):
    """Sparse evolutionary training in the form of the RigL paper: smallest magnitudes go, random positions come."""

    Options: ClassVar = SETOptions
    family: ClassVar[str] = "dynamic"
    source: ClassVar[str] = "Mocanu et al. 2018, as run in Evci et al. 2020"

    def grow_score(self, layer: str, step: int) -> Tensor:
        return keyed_uniform(self.tensors.mask(layer), self.seed, "grow", layer, step)


class SETOriginalOptions(SETOptions):
    name: str = "set_original"
    distribution: Distribution = "er"
    drop_fraction: float = 0.3
    final_drop_fraction: float = 0.3
    stop: float = 1.0


class SETOriginal(SET):
    """SET as first published: at the end of every epoch the smallest positive and the largest negative weights go, as
    many of each as their share, and all momentum is lost."""

    Options: ClassVar = SETOriginalOptions
    source: ClassVar[str] = "Mocanu et al. 2018"

    def update_due(self, step: int) -> bool:
        return step % self.clock.steps_per_epoch == 0

    def resets_momentum(self, step: int) -> bool:
        return self.update_due(step)

    def drop_and_grow(self, layer: str, step: int) -> Tensor:
        mask, weight = self.tensors.mask(layer), self.tensors.weight(layer)
        kept = torch.zeros_like(mask)
        for tail in (mask & (weight > 0), mask & (weight < 0)):  # weights that never left zero go with either
            n = int(tail.sum())
            kept |= top_k_mask(weight.abs(), n - self.n_dropped(n, step), among=tail)
        n_gone = int(mask.sum()) - int(kept.sum())
        return kept | top_k_mask(self.grow_score(layer, step), n_gone, among=~kept)
