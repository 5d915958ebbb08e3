from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from baselines.rigl import RigL, RigLOptions
from baselines.set import SET, SETOptions
from harness.sparse.masks import MaskedWeight, WeightView
from harness.sparse.method import DropAndGrow


class EverActiveWeight(MaskedWeight):
    """A mask, and every position that was ever in it."""

    ever: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask)
        self.register_buffer("ever", mask.clone())

    def take(self, new: Tensor) -> None:
        super().take(new)
        self.ever.logical_or_(new)


class InTime(DropAndGrow):
    """Rare and large updates to the end of training, so that most weights are tried once."""

    source: ClassVar[str] = "Liu et al. 2021 (in-time over-parameterization)"

    def views(self) -> dict[str, WeightView]:
        return {layer: EverActiveWeight(mask) for layer, mask in self.initial_masks().items()}

    def n_dropped(self, n_active: int, step: int) -> int:
        return math.ceil(self.drop.at(step) * n_active)

    def ever_active(self) -> float:
        """R_s: share of the maskable weights that were active at some time."""
        n_ever = 0
        for layer in self.shapes:
            view = self.tensors.view(layer)
            assert isinstance(view, EverActiveWeight)
            n_ever += int(view.ever.sum())
        return n_ever / self.n_weights

    def gauges(self, step: int) -> dict[str, float]:
        return {**super().gauges(step), "ever_active": self.ever_active()}

    @torch.no_grad()
    def outcome(self) -> dict[str, Any]:
        return {"ever_active": self.ever_active()}


class SETITOPOptions(SETOptions):
    name: str = "set_itop"
    drop_fraction: float = 0.5
    final_drop_fraction: float = 0.005
    interval: int = 1500
    stop: float = 1.0


class SETITOP(InTime, SET):
    """SET with rare and large updates."""

    Options: ClassVar = SETITOPOptions
    source: ClassVar[str] = InTime.source


class RigLITOPOptions(RigLOptions):
    name: str = "rigl_itop"
    drop_fraction: float = 0.5
    final_drop_fraction: float = 0.005
    interval: int = 4000
    stop: float = 1.0
    style: Literal["append", "replace"] = "append"


class RigLITOP(InTime, RigL):
    """RigL with rare and large updates."""

    Options: ClassVar = RigLITOPOptions
    source: ClassVar[str] = InTime.source
