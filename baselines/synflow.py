from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from harness.sparse.method import Masks
from harness.sparse.scoring import AtInitialisation, Draw, InitOptions, ScoredNetwork, rounds_of


class SynFlowOptions(InitOptions):
    name: str = "synflow"
    rounds: int = Field(100, ge=1)
    law: Literal["exponential", "linear"] = "exponential"
    """How density falls over rounds."""


@torch.no_grad()
def make_positive(network: ScoredNetwork) -> None:
    """Every parameter and buffer its absolute value, in fp64: products over layers leave the range of fp32."""
    network.module.double()
    for tensor in (*network.module.parameters(), *network.module.buffers()):
        if tensor.is_floating_point():
            tensor.abs_()


def flow(network: ScoredNetwork, shape: tuple[int, int, int]) -> tuple[dict[str, Tensor], float]:
    """theta dR/dtheta of each weight, R the sum of the logits of an image of ones; and R."""
    weights = list(network.weights.values())
    device = weights[0].device
    total = network.module(torch.ones(1, *shape, dtype=torch.float64, device=device)).sum()
    found = torch.autograd.grad(total, weights)
    scores = {n: (w.detach() * g).abs() for (n, w), g in zip(network.weights.items(), found, strict=True)}
    return scores, float(total.detach())


class SynFlow(AtInitialisation):
    """Weights on strong paths stay, chosen without data, a few at a time so that no layer is emptied before it must."""

    Options: ClassVar = SynFlowOptions
    options: SynFlowOptions
    source: ClassVar[str] = "Tanaka et al. 2020"

    def scored_masks(self, network: ScoredNetwork, draw: Draw) -> Masks:
        network.mode("eval")
        make_positive(network)
        for share in rounds_of(self.options.density, self.options.rounds, self.options.law):
            scores, _ = flow(network, draw.shape)
            network.mask(self.largest(scores, share, network.masks()))
        return network.masks()
