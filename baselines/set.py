from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from harness.sparse.method import DropAndGrow, DropAndGrowOptions
from harness.sparse.noise import keyed_generator


class SETOptions(DropAndGrowOptions):
    name: str = "set"


class SET(DropAndGrow):
    """Sparse evolutionary training in the form of the RigL paper: smallest magnitudes go, random positions come."""

    Options: ClassVar = SETOptions
    family: ClassVar[str] = "dynamic"
    source: ClassVar[str] = "Mocanu et al. 2018, as run in Evci et al. 2020"

    def grow_score(self, layer: str, step: int) -> Tensor:
        mask = self.tensors.mask(layer)
        return torch.rand(mask.shape, generator=keyed_generator(self.seed, "grow", layer, step)).to(mask.device)
