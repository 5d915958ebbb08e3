from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from baselines.rigl import RigL, RigLOptions
from harness.sparse.masks import MaskedWeight, WeightView


class DCTpSOptions(RigLOptions):
    name: str = "dctps"
    topology: Literal["static", "rigl"] = "static"
    """Whether the sparse part's positions are fixed at random or updated as in RigL."""


def cosine_matrix(n: int) -> Tensor:
    """The orthonormal DCT-II matrix [n, n], in fp64."""
    i = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi / n * (i[None] + 0.5) * i[:, None]) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix


class CosinePlusSparse(MaskedWeight):
    """scale * D + mask * theta: D a slice of an orthonormal cosine matrix, theta zero at the start, scale trained."""

    fixed: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask)
        rows, columns = mask.shape[0], mask[0].numel()
        matrix = cosine_matrix(max(rows, columns))[:rows, :columns]
        self.register_buffer("fixed", matrix.float().reshape(mask.shape).contiguous(), persistent=False)
        self.scale = nn.Parameter(torch.ones(1))

    def prepare(self, theta: Tensor) -> None:
        theta.zero_()

    def sparse_part(self, theta: Tensor) -> Tensor:
        return theta * self.mask

    def forward(self, theta: Tensor) -> Tensor:
        return self.scale * self.fixed + super().forward(theta)


class DCTpS(RigL):
    """A fixed cosine matrix plus a sparse trained part: the density is that of the part that is trained.

    Inference multiplies with every weight, whatever the density.
    """

    Options: ClassVar = DCTpSOptions
    options: DCTpSOptions
    family: ClassVar[str] = "reparametrized"
    source: ClassVar[str] = "Price and Tanner 2021"
    forward_is_dense: ClassVar[bool] = True

    def views(self) -> dict[str, WeightView]:
        return {layer: CosinePlusSparse(mask) for layer, mask in self.initial_masks().items()}

    def update_due(self, step: int) -> bool:
        return self.options.topology == "rigl" and super().update_due(step)
