from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from harness.errors import HarnessError
from harness.sparse.budgets import Distribution, Shapes
from harness.sparse.method import DropAndGrow, DropAndGrowOptions, Masks
from harness.sparse.noise import keyed_generator
from harness.sparse.selection import top_k_mask


class CHTOptions(DropAndGrowOptions):
    name: str = "cht"
    distribution: Distribution = "er"
    style: Literal["append", "replace"] = "replace"
    removal: Literal["magnitude", "relative"] = "magnitude"
    """What is removed: the smallest |w|, or the smallest |w| over its row's sum plus |w| over its column's."""

    soft: bool = False
    """Sample what stays and what grows, with probability as score to a power, instead of taking the largest."""

    powers: tuple[float, float] = (1.0, 9.0)
    """Soft: the power at the first and at the last update, linear between."""

    @model_validator(mode="after")
    def _rise(self) -> CHTOptions:
        if not 0 < self.powers[0] <= self.powers[1]:
            raise ValueError(f"powers are positive and rise, got {self.powers}")
        return self


def paths_of_three(mask: Tensor) -> Tensor:
    """How likely each link is, from the links there are: over paths of three links that would close into it, each node
    on one counts (1 + links to other such nodes) / (1 + links elsewhere).

    mask: [out, in], boolean. Returns the same shape, fp64; meant for positions outside the mask.
    """
    m = mask.double()
    shared_inputs, shared_outputs = m @ m.T, m.T @ m
    of_outputs = (shared_inputs > 0) * (1 + shared_inputs) / (m.sum(1)[None, :] - shared_inputs).clamp(min=1)
    of_inputs = (shared_outputs > 0) * (1 + shared_outputs) / (m.sum(0)[:, None] - shared_outputs).clamp(min=1)
    return of_outputs @ m + m @ of_inputs


class CHT(DropAndGrow):
    """Cannistraci-Hebb training: links grow where the graph of the mask would predict them, without a gradient."""

    Options: ClassVar = CHTOptions
    options: CHTOptions
    family: ClassVar[str] = "dynamic"
    source: ClassVar[str] = "Zhang et al. 2024 (CHT), 2025 (CHTs)"

    def bind(self, n_weights: int, shapes: Shapes) -> None:
        deep = [name for name, shape in shapes.items() if len(shape) != 2]
        if deep:
            raise HarnessError(
                f"{self.options.name} predicts links of a graph between neurons, and layer {deep[0]} is a convolution: "
                f"there is no published form for it. Keep such layers dense (method.keep_dense) or choose a perceptron"
            )
        super().bind(n_weights, shapes)

    def new_masks(self, step: int) -> Masks:
        kept = {layer: self.survivors(layer, step) for layer in self.shapes}
        self.remove_chains(kept)
        return {layer: mask | self.grown(layer, step, mask) for layer, mask in kept.items()}

    def grow_score(self, layer: str, step: int) -> Tensor:
        return paths_of_three(self.tensors.mask(layer))

    def survivors(self, layer: str, step: int) -> Tensor:
        mask, score = self.tensors.mask(layer), self.tensors.weight(layer).abs().double()
        if self.options.removal == "relative":
            rows, columns = score.sum(1, keepdim=True), score.sum(0, keepdim=True)
            score = score / rows.clamp(min=1e-30) + score / columns.clamp(min=1e-30)
        n_active = int(mask.sum())
        return self.chosen(score, n_active - self.n_dropped(n_active, step), mask, ("keep", layer, step))

    def grown(self, layer: str, step: int, kept: Tensor) -> Tensor:
        n_grown = self.target_budget[layer] - int(kept.sum())
        return self.chosen(paths_of_three(kept), n_grown, ~kept, ("grow", layer, step))

    def chosen(self, score: Tensor, k: int, among: Tensor, key: tuple[str, str, int]) -> Tensor:
        """`k` of the candidates; those without any score come last, at random."""
        noise = torch.rand(score.shape, generator=keyed_generator(self.seed, *key), dtype=torch.float64).to(
            score.device
        )
        if not self.options.soft:
            return top_k_mask(score + 1e-9 * noise, k, among=among)
        share = min(1.0, key[2] / max(1, self.last_step))
        power = self.options.powers[0] + (self.options.powers[1] - self.options.powers[0]) * share
        drawn = -torch.log(-torch.log(noise.clamp(1e-300, 1 - 1e-16)))  # Gumbel: the k largest are a sample
        return top_k_mask(power * torch.log(score.clamp(min=1e-30)) + drawn, k, among=among)

    def remove_chains(self, kept: Masks) -> None:
        """Links of hidden neurons without an input or an output go too, until there are none; others will grow."""
        chain = [
            (a, b) for a, b in pairwise(kept) if self.shapes[a][0] == self.shapes[b][1]
        ]  # fmt: skip
        changed = True
        while changed:
            changed = False
            for before, after in chain:
                useless = kept[before].any(1) != kept[after].any(0)
                if bool(useless.any()):
                    kept[before] = kept[before] & ~useless[:, None]
                    kept[after] = kept[after] & ~useless[None, :]
                    changed = True


class CHTsOptions(CHTOptions):
    name: str = "chts"
    removal: Literal["magnitude", "relative"] = "relative"
    soft: bool = True


class CHTs(CHT):
    """CHT that samples what stays and what grows, more and more surely."""

    Options: ClassVar = CHTsOptions
