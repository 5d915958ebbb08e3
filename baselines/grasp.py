from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.sparse.masks import maskable_modules, stored_weight
from harness.sparse.method import Masks
from harness.sparse.noise import keyed_generator
from harness.sparse.scoring import AtInitialisation, Draw, Images, InitOptions, ScoredNetwork


class GraSPOptions(InitOptions):
    name: str = "grasp"
    norm_mode: Literal["train", "eval"] = "train"
    """Normalisation while scoring."""

    per_class: int = Field(10, ge=2)
    """Images of each class per draw; its two halves are scored apart."""

    n_draws: int = Field(1, ge=1)
    temperature: float = Field(200.0, gt=0)
    """Logits are divided by it."""

    reinit_classifier: bool = True
    """Score with a newly drawn (Xavier normal) last linear layer, as the authors' code does. Training keeps its own."""


def gradient_flow(network: ScoredNetwork, halves: list[Images], temperature: float) -> dict[str, Tensor]:
    """w (H g) of each weight, g the gradient summed over halves: what its removal takes from the gradient's square, to
    first order and up to a factor of 2. Large is good."""
    weights = list(network.weights.values())
    total = [torch.zeros_like(weight) for weight in weights]
    for half in halves:
        for held, gradient in zip(total, torch.autograd.grad(network.loss(half, temperature), weights), strict=True):
            held += gradient
    product = [torch.zeros_like(weight) for weight in weights]
    for half in halves:
        gradients = torch.autograd.grad(network.loss(half, temperature), weights, create_graph=True)
        along = torch.stack([(g * held).sum() for g, held in zip(gradients, total, strict=True)]).sum()
        for held, found in zip(product, torch.autograd.grad(along, weights), strict=True):
            held += found
    scores = {n: w.detach() * h for (n, w), h in zip(network.weights.items(), product, strict=True)}
    scale = abs(sum(float(score.double().sum()) for score in scores.values())) + 1e-10
    return {name: score / scale for name, score in scores.items()}


class GraSP(AtInitialisation):
    """The weights stay whose removal would take most from the gradient's norm."""

    Options: ClassVar = GraSPOptions
    options: GraSPOptions
    source: ClassVar[str] = "Wang et al. 2020"

    def scored_masks(self, network: ScoredNetwork, draw: Draw) -> Masks:
        o = self.options
        network.mode(o.norm_mode)
        if o.reinit_classifier:
            self.redraw_classifier(network.module)
        halves: list[Images] = []
        for _ in range(o.n_draws):
            images, labels = draw.balanced(o.per_class)
            halves += [(images[::2], labels[::2]), (images[1::2], labels[1::2])]
        return self.largest(gradient_flow(network, halves, o.temperature), 1.0)

    @torch.no_grad()
    def redraw_classifier(self, module: nn.Module) -> None:
        linear = {n: m for n, m in maskable_modules(module).items() if isinstance(m, nn.Linear)}
        if linear:
            name, layer = list(linear.items())[-1]
            weight, _ = stored_weight(layer)
            drawn = torch.empty(weight.shape)
            nn.init.xavier_normal_(drawn, generator=keyed_generator(self.seed, "grasp", name))
            weight.copy_(drawn)
