"""A data set that lives on the device as uint8; crops and flips are done there, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from harness.config.schema import DataConfig
from harness.data.batches import Batch, Share, Split, batch_bounds, epoch_order, share_of
from harness.data.sources import Images
from harness.models.shape import InputShape
from harness.sparse.noise import keyed_generator


class ResidentLoader:
    def __init__(
        self, images: Images, config: DataConfig, seed: int, share: Share, device: torch.device, eval_batch: int
    ) -> None:
        self.config, self.seed, self.share, self.device, self.eval_batch = config, seed, share, device, eval_batch
        channels, size = images.splits["train"][0].shape[1:3]
        margin = {"train": config.pad}
        mode: Literal["constant", "reflect"] = "reflect" if config.pad_mode == "reflect" else "constant"
        self.data = {
            split: (
                torch.from_numpy(np.pad(x, ((0, 0), (0, 0), *[(margin.get(split, 0),) * 2] * 2), mode)).to(device),
                torch.from_numpy(y.copy()).to(device),
            )
            for split, (x, y) in images.splits.items()
        }
        self.sizes: dict[Split, int] = {split: len(y) for split, (_, y) in images.splits.items()}
        self.inputs = InputShape(channels, size, images.n_classes)
        self.n_skipped = 0
        # value / peak, less mean, over std, as one multiply and one add
        unit = config.scaling == "unit"
        mean, std = torch.tensor([0.0] if unit else images.mean), torch.tensor([1.0] if unit else images.std)
        shape = (channels, size, size)  # in full: a CPU adds whole rows faster than broadcast numbers
        self.scale = (1 / (images.peak * std)).view(-1, 1, 1).expand(shape).contiguous().to(device)
        self.shift = (-mean / std).view(-1, 1, 1).expand(shape).contiguous().to(device)
        self._shares: dict[int, tuple[Tensor, Tensor]] = {}

    def train(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        n, pad, flip = self.sizes["train"], self.config.pad, self.config.flip
        alone = self.share == Share()
        # what an epoch draws goes to the device once: a copy for every batch would wait for the device every time
        order = epoch_order(n, self.seed, epoch).to(self.device)
        noise = keyed_generator(self.seed, "augment", epoch)
        offsets = torch.randint(0, 2 * pad + 1, (n, 2), generator=noise).to(self.device)
        flips = (torch.rand(n, generator=noise) < 0.5).to(self.device)
        for start, end in batch_bounds(n, self.config.batch_size)[first_batch:]:
            mine, weight = self._mine(end - start)
            places = slice(start, end) if alone else start + mine
            pixels, labels = self._gather("train", order[places])
            if pad or flip:
                pixels = windows(pixels, self.inputs.size, offsets[places], flips[places] if flip else None)
            yield Batch(self._normalised(pixels), labels, weight, end - start)

    def evaluate(self, split: Split) -> Iterator[Batch]:
        for start, end in batch_bounds(self.sizes[split], self.eval_batch):
            mine, weight = self._mine(end - start)
            pixels, labels = self._gather(split, start + mine)
            yield Batch(self._normalised(pixels), labels, weight, end - start)

    def _mine(self, n_global: int) -> tuple[Tensor, Tensor]:
        """This rank's positions within any batch of a size, and their weights, on the device."""
        if n_global not in self._shares:
            where, weight = share_of(torch.arange(n_global), self.share)
            self._shares[n_global] = where.to(self.device), weight.to(self.device)
        return self._shares[n_global]

    def _gather(self, split: Split, index: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = self.data[split]
        return images.index_select(0, index), labels.index_select(0, index)

    def _normalised(self, pixels: Tensor) -> Tensor:
        return torch.addcmul(self.shift, pixels.float(), self.scale)


def windows(pixels: Tensor, size: int, offsets: Tensor, mirrored: Tensor | None) -> Tensor:
    """A window of `size` of each image, left and right exchanged where `mirrored` says so.

    pixels: uint8 [n, c, h, w]. offsets: [n, 2], row and column of a window's first pixel. One look-up for both, of
    bytes: much faster than padding, cutting and mirroring floats one after another.
    """
    n, channels, height, width = pixels.shape
    span = torch.arange(size, device=pixels.device)
    rows, columns = offsets[:, :1] + span, offsets[:, 1:] + span
    if mirrored is not None:
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    places = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, size * size).expand(n, channels, -1)
    return pixels.view(n, channels, height * width).gather(2, places).view(n, channels, size, size)
