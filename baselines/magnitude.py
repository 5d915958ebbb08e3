from __future__ import annotations

from typing import ClassVar

from harness.sparse.method import Masks
from harness.sparse.scoring import AtInitialisation, Draw, InitOptions, ScoredNetwork


class MagnitudeOptions(InitOptions):
    name: str = "magnitude"


class Magnitude(AtInitialisation):
    """The largest initial weights stay."""

    Options: ClassVar = MagnitudeOptions
    source: ClassVar[str] = "a control of the literature on pruning at initialisation"

    def scored_masks(self, network: ScoredNetwork, draw: Draw) -> Masks:
        return self.largest({layer: weight.detach().abs() for layer, weight in network.weights.items()}, 1.0)
