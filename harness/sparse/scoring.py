"""What methods share that choose their masks once, before the first step: a network to score, data to score it on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from harness.sparse.masks import MaskedWeight, viewed_layers
from harness.sparse.method import Masks
from harness.sparse.noise import keyed_generator
from harness.sparse.pruning import PruningOptions, Selecting
from harness.sparse.selection import random_mask

Images = tuple[Tensor, Tensor]
"""Images [b, c, h, w] and labels [b]."""


class Draw(Protocol):
    """Training images, in an order of their own that no epoch of training has; never the same twice before all were
    shown."""

    shape: tuple[int, int, int]
    """Channels, height, width."""

    n_classes: int

    def batch(self) -> Images:
        """The next whole batch, of the size that training has."""

    def balanced(self, per_class: int) -> Images:
        """The next `per_class` images of each class, class by class in turn."""


class ScoredNetwork:
    """A copy of the network: what is done to it leaves no trace in training."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        layers = viewed_layers(module)
        self.weights: dict[str, nn.Parameter] = {name: parameter for name, (parameter, _) in layers.items()}
        """The stored weight of each maskable layer, before its mask."""

        self._views: dict[str, MaskedWeight] = {}
        for name, (_, view) in layers.items():
            assert isinstance(view, MaskedWeight)
            self._views[name] = view

    def mode(self, norm: Literal["train", "eval"]) -> None:
        """Whether normalisation uses the statistics of the batch, or the running ones it was made with."""
        self.module.train(norm == "train")

    def mask(self, masks: Mapping[str, Tensor]) -> None:
        for name, mask in masks.items():
            self._views[name].mask.copy_(mask)

    def masks(self) -> Masks:
        return {name: view.mask for name, view in self._views.items()}

    def pass_gradients(self, everywhere: bool) -> None:
        """Whether weights outside the mask get the gradient that the effective weight has at their positions."""
        for view in self._views.values():
            view.dense_gradient = everywhere

    def loss(self, images: Images, temperature: float = 1.0) -> Tensor:
        return F.cross_entropy(self.module(images[0]) / temperature, images[1])

    def gradients(self, *batches: Images) -> dict[str, Tensor]:
        """Of the mean loss over batches, by layer."""
        total = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        for images in batches:
            found = torch.autograd.grad(self.loss(images), list(self.weights.values()))
            for name, gradient in zip(total, found, strict=True):
                total[name] += gradient / len(batches)
        return total


class InitOptions(PruningOptions):
    shuffle_layers: bool = False
    """The control: each layer keeps as many weights as its scores say, at random places."""


class ScoredOptions(InitOptions):
    norm_mode: Literal["train", "eval"] = "eval"
    """Normalisation while scoring: with the statistics of the batch, or those it was made with (mean 0, variance 1)."""

    n_batches: int = Field(1, ge=1)
    """Batches of the training size over which gradients are averaged."""


class AtInitialisation(Selecting, ABC):
    """Masks are chosen from the untrained network, and stay.

    Rank 0 alone scores, on whole batches, and sends the masks to the others: they do not depend on the number of ranks.
    """

    Options: ClassVar[type[InitOptions]] = InitOptions
    options: InitOptions
    family: ClassVar[str] = "at initialisation"
    scores_at_start: ClassVar[bool] = True

    def total_at(self, step: int) -> int:
        return self.target

    def budgets_at(self, step: int) -> dict[str, int] | None:
        return self.layer_targets

    @abstractmethod
    def scored_masks(self, network: ScoredNetwork, draw: Draw) -> Masks: ...

    def choose_masks(self, network: nn.Module, draw: Draw) -> Masks:
        masks = self.scored_masks(ScoredNetwork(network), draw)
        if not self.options.shuffle_layers:
            return masks
        return {
            layer: random_mask(mask.shape, int(mask.sum()), keyed_generator(self.seed, "shuffle", layer))
            for layer, mask in masks.items()
        }


def rounds_of(density: float, n_rounds: int, law: Literal["exponential", "linear"]) -> Iterator[float]:
    """After each of `n_rounds` rounds, how much of all that is to be pruned is; exactly 1 after the last.

    Density falls to density^(k / n), or linearly.
    """
    for k in range(1, n_rounds):
        yield (1 - density ** (k / n_rounds)) / (1 - density) if law == "exponential" and density < 1 else k / n_rounds
    yield 1.0
