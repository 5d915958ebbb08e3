from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from harness.config.schema import RunConfig
from harness.sparse.budgets import Shapes
from harness.sparse.method import DropAndGrow, DropAndGrowOptions, Masks
from harness.sparse.noise import keyed_generator
from harness.sparse.selection import ScoreNotANumber, top_k_mask


class SRigLOptions(DropAndGrowOptions):
    name: str = "srigl"
    style: Literal["append", "replace"] = "replace"
    ablate: bool = True
    gamma: float = Field(0.3, ge=0, le=1)
    """A neuron with fewer salient weights than this share of a fan-in is taken out (0.3 for convolutional networks)."""

    gamma_of: Literal["current", "dense"] = "current"
    """The fan-in meant: that of the layer's active neurons, or that of the dense layer."""

    keep_neurons: tuple[str, ...] = ("classifier",)
    """Layers that lose no neuron."""


def top_of_rows(scores: Tensor, wanted: Tensor, among: Tensor) -> Tensor:
    """The `wanted` largest of each row, or as many as are candidates; ties go to the lower index.

    scores, among: [rows, columns]. wanted: [rows].
    """
    if bool(torch.isnan(scores[among]).any()):
        raise ScoreNotANumber("a score is not a number")
    order = scores.masked_fill(~among, -math.inf).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return (rank < wanted[:, None]) & among


class SRigL(DropAndGrow):
    """RigL under constant fan-in: every active neuron of a layer has as many weights. Neurons that would have few that
    matter are taken out, and their share goes to the others."""

    Options: ClassVar = SRigLOptions
    options: SRigLOptions
    family: ClassVar[str] = "dynamic"
    source: ClassVar[str] = "Lasby et al. 2024"
    grows_by_gradient: ClassVar[bool] = True

    @classmethod
    def remarks(cls, config: RunConfig) -> list[str]:
        return ["constant fan-in: whole neurons of equal fan-in, as many weights as fit into each layer's budget"]

    def bind(self, n_weights: int, shapes: Shapes) -> None:
        super().bind(n_weights, shapes)
        self.ceiling = self.target_budget

    def budgets_at(self, step: int) -> None:  # type: ignore[override]
        """They follow from how many neurons are left: at most `ceiling`."""
        return None

    def grow_score(self, layer: str, step: int) -> Tensor:
        return self.tensors.gradient(layer).abs()

    def fan_in(self, layer: str, n_neurons: int) -> int:
        """Weights of each of so many active neurons."""
        return max(1, min(math.prod(self.shapes[layer][1:]), self.target_budget[layer] // n_neurons))

    def initial_masks(self) -> Masks:
        masks = {}
        for layer, shape in self.shapes.items():
            n_out, n_in, budget = shape[0], math.prod(shape[1:]), self.target_budget[layer]
            n_neurons = min(n_out, budget)
            generator = keyed_generator(self.seed, "mask", layer)
            scores = torch.rand(n_out, n_in, generator=generator)
            active = torch.zeros(n_out, dtype=torch.long)
            active[torch.randperm(n_out, generator=generator)[:n_neurons]] = self.fan_in(layer, n_neurons)
            masks[layer] = top_of_rows(scores, active, torch.ones_like(scores, dtype=torch.bool)).view(
                torch.Size(shape)
            )
        return masks

    def drop_and_grow(self, layer: str, step: int) -> Tensor:
        shape = self.tensors.mask(layer).shape
        mask = self.tensors.mask(layer).flatten(1)
        weight = self.tensors.weight(layer).abs().view(mask.shape)
        gradient = self.grow_score(layer, step).view(mask.shape)
        n_active = int(mask.sum())
        n_dropped = self.n_dropped(n_active, step)
        largest = top_k_mask(weight, n_active - n_dropped, among=mask)
        neurons = self.active_neurons(layer, mask, (largest | top_k_mask(gradient, n_dropped)).sum(1))
        fan_in = self.fan_in(layer, int(neurons.sum()))
        wanted = neurons.long() * fan_in
        kept = top_of_rows(weight, wanted, largest)
        return (kept | top_of_rows(gradient, wanted - kept.sum(1), ~kept)).view(shape)

    def active_neurons(self, layer: str, mask: Tensor, n_salient: Tensor) -> Tensor:
        """Which neurons go on: those with enough salient weights, and never fewer than can hold the layer's budget."""
        was = mask.any(1)
        if not self.options.ablate or layer in self.options.keep_neurons:
            return was
        n_in, budget = mask.shape[1], self.target_budget[layer]
        meant = n_in if self.options.gamma_of == "dense" else int(mask.sum()) // max(1, int(was.sum()))
        enough = n_salient >= max(1, int(self.options.gamma * meant))
        fewest = min(mask.shape[0], math.ceil(budget / n_in), budget)
        if int(enough.sum()) < fewest:
            enough = enough | top_k_mask(n_salient.double(), fewest)
        if int(enough.sum()) > budget:  # not even one weight for each
            enough = top_k_mask(n_salient.double(), budget, among=enough)
        return enough
