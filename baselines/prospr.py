from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from harness.sparse.method import Masks
from harness.sparse.scoring import AtInitialisation, Draw, Images, InitOptions, ScoredNetwork


class ProsPROptions(InitOptions):
    name: str = "prospr"
    norm_mode: Literal["train", "eval"] = "train"
    """Normalisation while scoring."""

    inner_steps: int = Field(3, ge=0)
    inner_lr: float = Field(0.1, gt=0)
    inner_momentum: float = Field(0.0, ge=0, lt=1)
    new_batches: bool = False
    """Whether every inner step has a batch of its own."""

    first_order: bool = False
    """Leave out how the inner gradients depend on the gates."""


def meta_gradient(network: ScoredNetwork, batches: list[Images], o: ProsPROptions) -> dict[str, Tensor]:
    """|dL/dc| of a gate c = 1 on every weight; L is the loss on the last batch after a step on each other one."""
    gates = {layer: torch.ones_like(weight, requires_grad=True) for layer, weight in network.weights.items()}
    owner = {id(weight): layer for layer, weight in network.weights.items()}
    now: dict[str, Tensor] = {}
    for name, parameter in network.module.named_parameters():
        held = parameter.detach()
        now[name] = held * gates[owner[id(parameter)]] if id(parameter) in owner else held.clone().requires_grad_()
    velocity = {name: torch.zeros_like(value) for name, value in now.items()}

    def loss(images: Images) -> Tensor:
        return F.cross_entropy(functional_call(network.module, now, (images[0],)), images[1])

    for images in batches[:-1]:
        gradients = torch.autograd.grad(loss(images), list(now.values()), create_graph=not o.first_order)
        for (name, value), gradient in zip(list(now.items()), gradients, strict=True):
            velocity[name] = o.inner_momentum * velocity[name] + gradient
            now[name] = value - o.inner_lr * velocity[name]
    found = torch.autograd.grad(loss(batches[-1]), list(gates.values()))
    return {layer: gradient.abs() for layer, gradient in zip(gates, found, strict=True)}


class ProsPR(AtInitialisation):
    """The weights stay whose removal would be felt after the first few steps of training."""

    Options: ClassVar = ProsPROptions
    options: ProsPROptions
    source: ClassVar[str] = "Alizadeh et al. 2022"

    def scored_masks(self, network: ScoredNetwork, draw: Draw) -> Masks:
        o = self.options
        network.mode(o.norm_mode)
        first = draw.batch()
        batches = [first, *(draw.batch() if o.new_batches else first for _ in range(o.inner_steps))]
        return self.largest(meta_gradient(network, batches, o), 1.0)
