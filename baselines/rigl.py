from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from harness.sparse.method import DropAndGrow, DropAndGrowOptions


class RigLOptions(DropAndGrowOptions):
    name: str = "rigl"
    style: Literal["append", "replace"] = "replace"


class RigL(DropAndGrow):
    """SET that grows where the dense gradient is largest."""

    Options: ClassVar = RigLOptions
    family: ClassVar[str] = "dynamic"
    source: ClassVar[str] = "Evci et al. 2020"
    grows_by_gradient: ClassVar[bool] = True

    def grow_score(self, layer: str, step: int) -> Tensor:
        return self.tensors.gradient(layer).abs()
