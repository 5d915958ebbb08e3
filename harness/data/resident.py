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
        self.scale = (1 / (images.peak * std)).view(-1, 1, 1).to(device)
        self.shift = (-mean / std).view(-1, 1, 1).to(device)

    def train(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        n, pad = self.sizes["train"], self.config.pad
        order = epoch_order(n, self.seed, epoch)
        noise = keyed_generator(self.seed, "augment", epoch)
        offsets = torch.randint(0, 2 * pad + 1, (n, 2), generator=noise)
        flips = torch.rand(n, generator=noise) < 0.5
        for start, end in batch_bounds(n, self.config.batch_size)[first_batch:]:
            where, weight = share_of(torch.arange(start, end), self.share)
            batch = self._gather("train", order[where], weight, end - start)
            images = batch.images
            if pad:
                images = self._crop(images, offsets[where].to(self.device))
            if self.config.flip:
                mirrored = flips[where].to(self.device).view(-1, 1, 1, 1)
                images = torch.where(mirrored, images.flip(3), images)
            yield Batch(images, batch.labels, batch.weight, batch.n_global)

    def evaluate(self, split: Split) -> Iterator[Batch]:
        for start, end in batch_bounds(self.sizes[split], self.eval_batch):
            where, weight = share_of(torch.arange(start, end), self.share)
            yield self._gather(split, where, weight, end - start)

    def _gather(self, split: Split, index: Tensor, weight: Tensor, n_global: int) -> Batch:
        images, labels = self.data[split]
        index = index.to(self.device)
        normalised = torch.addcmul(self.shift, images[index].float(), self.scale)
        return Batch(normalised, labels[index], weight.to(self.device), n_global)

    def _crop(self, images: Tensor, offsets: Tensor) -> Tensor:
        """Pad, then cut a window of the old size at [n, 2] offsets (row, column)."""
        size, pad = images.shape[2], self.config.pad
        if self.config.pad_mode == "reflect":
            padded = F.pad(images, (pad, pad, pad, pad), mode="reflect")
        else:  # a black border: zero before normalisation, as torchvision pads
            black = self.shift.expand(images.shape[1], 1, 1)
            padded = F.pad(images - black, (pad, pad, pad, pad)) + black
        span = torch.arange(size, device=self.device)
        rows = (offsets[:, :1] + span)[:, :, None]
        columns = (offsets[:, 1:] + span)[:, None, :]
        each = torch.arange(len(images), device=self.device)[:, None, None]
        return padded[each, :, rows, columns].permute(0, 3, 1, 2).contiguous()
