"""Which images form which batch: a pure function of (seed, epoch), the same for every loader and number of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from harness.models.shape import InputShape
from harness.sparse.noise import keyed_generator

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of every global batch is fed: that of `rank` among `world_size`, in `accumulation` micro-batches."""

    rank: int = 0
    world_size: int = 1
    accumulation: int = 1


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's part of a global batch.

    images: float, normalised, [b, c, h, w]; labels: [b]; weight: [b], 1, or 0 for an image that only fills the shape.
    n_global: images of the global batch, each counted once over all ranks.
    """

    images: Tensor
    labels: Tensor
    weight: Tensor
    n_global: int


class Loader(Protocol):
    """Feeds one rank. Two loaders with the same specification show the same images in the same order."""

    inputs: InputShape
    sizes: dict[Split, int]
    n_skipped: int

    def train(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]: ...

    def evaluate(self, split: Split) -> Iterator[Batch]: ...


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """The order of `n` training images in a 1-based epoch."""
    return torch.randperm(n, generator=keyed_generator(seed, "order", epoch))


def batch_bounds(n: int, batch_size: int) -> list[tuple[int, int]]:
    """Start and end of each global batch; the last one may be smaller and is kept."""
    return [(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]


def share_of(positions: Tensor, share: Share) -> tuple[Tensor, Tensor]:
    """This rank's positions of a global batch, and their weights; padded so that every rank has as many.

    Padding repeats the batch's first image with weight 0: it keeps shapes equal and is never counted.
    """
    parts = share.world_size * share.accumulation
    per_rank = -(-len(positions) // parts) * share.accumulation
    mine = positions[share.rank * per_rank : (share.rank + 1) * per_rank]
    weight = torch.zeros(per_rank)
    weight[: len(mine)] = 1
    padding = positions[:1].expand(per_rank - len(mine))
    return torch.cat([mine, padding]), weight
