from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from harness.config.schema import RunConfig
from harness.sparse.masks import MaskedWeight, WeightView
from harness.sparse.method import Masks, SparseMethod, SparseOptions
from harness.sparse.noise import keyed_generator, keyed_uniform
from harness.sparse.selection import places, random_places


class DeepROptions(SparseOptions):
    name: str = "deepr"
    l1: float = Field(1e-5, ge=0)
    """Pull of every active weight towards zero, as the factor of a penalty on magnitudes."""

    noise: float = Field(1e-5, ge=0)
    """Standard deviation of what is added to the gradient of every active weight, in every step."""


class SignedWeight(MaskedWeight):
    """A mask, and the sign that each weight has as long as it is active."""

    sign: Tensor

    def __init__(self, mask: Tensor, sign: Tensor) -> None:
        super().__init__(mask)
        self.register_buffer("sign", sign)

    def prepare(self, theta: Tensor) -> None:
        super().prepare(theta)
        theta.copy_(theta.abs() * self.sign)


class DeepR(SparseMethod):
    """A random walk: noise and a pull towards zero; a weight whose sign would turn goes, another place comes at random.

    Signs are fixed per place, drawn at the start. A new weight is zero, and stays while it has the sign or is zero.
    """

    Options: ClassVar = DeepROptions
    options: DeepROptions
    family: ClassVar[str] = "dynamic"
    source: ClassVar[str] = "Bellec et al. 2018"

    @classmethod
    def remarks(cls, config: RunConfig) -> list[str]:
        plain = config.optimizer.name == "sgd" and config.optimizer.momentum == 0
        return [] if plain else ["deepr was made for plain SGD: momentum accumulates its noise"]

    def views(self) -> dict[str, WeightView]:
        return {layer: SignedWeight(mask, self.signs(layer, mask)) for layer, mask in self.initial_masks().items()}

    def signs(self, layer: str, mask: Tensor) -> Tensor:
        return torch.where(keyed_uniform(mask, self.seed, "sign", layer) < 0.5, -1.0, 1.0)

    def before_step(self, step: int) -> None:
        self.step = step
        self.active = {layer: places(self.tensors.mask(layer)) for layer in self.shapes}

    def extra_loss(self) -> Tensor:
        """Its gradient is the pull and the noise of this step, on active weights alone."""
        parts = []
        for layer, active in self.active.items():
            theta = self.tensors.stored(layer).view(-1)[active]
            noise = torch.randn(len(active), generator=keyed_generator(self.seed, "noise", layer, self.step)).to(theta)
            parts.append((theta * (self.options.l1 * theta.detach().sign() + self.options.noise * noise)).sum())
        return torch.stack(parts).sum()

    def update_due(self, step: int) -> bool:
        return True

    def new_masks(self, step: int) -> Masks:
        changed = {}
        for layer, active in self.active.items():
            view = self.tensors.view(layer)
            assert isinstance(view, SignedWeight)
            gone = active[self.tensors.weight(layer).view(-1)[active] * view.sign.view(-1)[active] < 0]
            if len(gone):
                new = view.mask.clone()
                new.view(-1)[gone] = False
                generator = keyed_generator(self.seed, "grow", layer, step)
                new.view(-1)[random_places(~new, len(gone), generator)] = True
                changed[layer] = new
        return changed
