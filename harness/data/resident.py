"""A data set that lives on the device as uint8; crops and flips are done there, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

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
        self.data = {
            split: (torch.from_numpy(x.copy()).to(device), torch.from_numpy(y.copy()).to(device))
            for split, (x, y) in images.splits.items()
        }
        self.sizes: dict[Split, int] = {split: len(y) for split, (_, y) in images.splits.items()}
        channels, size = self.data["train"][0].shape[1:3]
        self.inputs = InputShape(channels, size, images.n_classes)
        self.n_skipped = 0
        # value / peak, less mean, over std, as one multiply and one add
        unit = config.scaling == "unit"
        mean, std = torch.tensor([0.0] if unit else images.mean), torch.tensor([1.0] if unit else images.std)
        shape = (channels, size, size)  # in full: a CPU adds whole rows three times as fast as broadcast numbers
        self.scale = (1 / (images.peak * std)).view(-1, 1, 1).expand(shape).contiguous().to(device)
        self.shift = (-mean / std).view(-1, 1, 1).expand(shape).contiguous().to(device)
        self._shares: dict[int, tuple[Tensor, Tensor]] = {}

    def train(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        n, pad = self.sizes["train"], self.config.pad
        # what an epoch draws goes to the device once: a copy for every batch would wait for the device every time
        order = epoch_order(n, self.seed, epoch).to(self.device)
        noise = keyed_generator(self.seed, "augment", epoch)
        offsets = torch.randint(0, 2 * pad + 1, (n, 2), generator=noise).to(self.device)
        flips = (torch.rand(n, generator=noise) < 0.5).to(self.device)
        for start, end in batch_bounds(n, self.config.batch_size)[first_batch:]:
            mine, weight = self._mine(end - start)
            images, labels = self._gather("train", order[start:end][mine])
            if pad:
                images = self._crop(images, offsets[start:end][mine])
            if self.config.flip:
                mirrored = flips[start:end][mine].view(-1, 1, 1, 1)
                images = torch.where(mirrored, images.flip(3), images)
            yield Batch(images, labels, weight, end - start)

    def evaluate(self, split: Split) -> Iterator[Batch]:
        for start, end in batch_bounds(self.sizes[split], self.eval_batch):
            mine, weight = self._mine(end - start)
            yield Batch(*self._gather(split, start + mine), weight, end - start)

    def _mine(self, n_global: int) -> tuple[Tensor, Tensor]:
        """This rank's positions within any batch of a size, and their weights, on the device."""
        if n_global not in self._shares:
            where, weight = share_of(torch.arange(n_global), self.share)
            self._shares[n_global] = where.to(self.device), weight.to(self.device)
        return self._shares[n_global]

    def _gather(self, split: Split, index: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = self.data[split]
        normalised = torch.addcmul(self.shift, images.index_select(0, index).float(), self.scale)
        return normalised, labels[index]

    def _crop(self, images: Tensor, offsets: Tensor) -> Tensor:
        """Pad, then cut a window of the old size at [n, 2] offsets (row, column)."""
        size, pad = images.shape[2], self.config.pad
        if self.config.pad_mode == "reflect":
            padded = F.pad(images, (pad, pad, pad, pad), mode="reflect")
        else:  # a black border: zero before normalisation, as torchvision pads
            black = self.shift[:, :1, :1]
            padded = F.pad(images - black, (pad, pad, pad, pad)) + black
        span = torch.arange(size, device=self.device)
        rows = (offsets[:, :1] + span)[:, :, None]
        columns = (offsets[:, 1:] + span)[:, None, :]
        each = torch.arange(len(images), device=self.device)[:, None, None]
        return padded[each, :, rows, columns].permute(0, 3, 1, 2).contiguous()
