from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from harness.sparse.method import Masks
from harness.sparse.scoring import AtInitialisation, Draw, ScoredNetwork, ScoredOptions


class SNIPOptions(ScoredOptions):
    name: str = "snip"


def sensitivity(network: ScoredNetwork, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """|w dL/dw| of each weight over the sum of all: how much the loss feels a gate on it."""
    scores = {layer: (network.weights[layer].detach() * gradient).abs() for layer, gradient in gradients.items()}
    total = sum(float(score.double().sum()) for score in scores.values())
    return {layer: score / total for layer, score in scores.items()} if total > 0 else scores


class SNIP(AtInitialisation):
    """The weights stay whose removal the loss would feel most."""

    Options: ClassVar = SNIPOptions
    options: SNIPOptions
    source: ClassVar[str] = "Lee et al. 2019"

    def scored_masks(self, network: ScoredNetwork, draw: Draw) -> Masks:
        network.mode(self.options.norm_mode)
        gradients = network.gradients(*(draw.batch() for _ in range(self.options.n_batches)))
        return self.largest(sensitivity(network, gradients), 1.0)
