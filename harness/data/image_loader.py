"""Feeds image folders: plans from crops.py, pixels from DALI or torchvision, normalised on the device."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from harness.config.schema import DataConfig
from harness.data.batches import Batch, Share, Split
from harness.data.crops import BatchPlan, Plans, evaluation_plan, train_plan
from harness.data.folder import FolderIndex
from harness.errors import HarnessError
from harness.models.shape import InputShape

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Decoder(Protocol):
    """Turns planned views into pixels, in order, ahead of time."""

    def decode(self, plans: Plans) -> Iterator[tuple[BatchPlan, Tensor]]:
        """Yields each plan with its pixels, uint8 [batch, 3, size, size]."""
        ...


class ImageLoader:
    def __init__(
        self,
        index: FolderIndex,
        config: DataConfig,
        seed: int,
        share: Share,
        device: torch.device,
        eval_batch: int,
        decoder: Decoder,
    ) -> None:
        self.index, self.config, self.seed, self.share = index, config, seed, share
        self.device, self.eval_batch, self.decoder = device, eval_batch, decoder
        self.sizes: dict[Split, int] = {split: len(files) for split, files in index.splits.items()}
        self.inputs = InputShape(3, image_size(config), len(index.classes))
        self.n_skipped = len(index.skipped)
        self.mean, self.std = (self._everywhere(IMAGENET_MEAN), self._everywhere(IMAGENET_STD))

    def train(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        files = self.index.splits["train"]
        return self._feed(train_plan(files, self.config, self.seed, epoch, self.share, first_batch))

    def evaluate(self, split: Split) -> Iterator[Batch]:
        return self._feed(evaluation_plan(self.index.splits[split], self.eval_batch, self.share))

    def _feed(self, plans: Plans) -> Iterator[Batch]:
        for plan, pixels in self.decoder.decode(plans):
            images = self._moved(pixels).float().sub_(self.mean).div_(self.std)
            labels = torch.tensor([view.file.label for view in plan.views])
            yield Batch(images, self._moved(labels), self._moved(plan.weight), plan.n_global)

    def _everywhere(self, channels: tuple[float, float, float]) -> Tensor:
        """In grey levels, at each place of an image: a CPU is slow at loops along three channels alone."""
        of_channel = (255 * torch.tensor(channels, device=self.device)).view(1, 3, 1, 1)
        size = self.inputs.size
        return of_channel.expand(1, 3, size, size).contiguous(memory_format=torch.channels_last)

    def _moved(self, tensor: Tensor) -> Tensor:
        """On the device; from pinned memory, so that nothing waits for the copy."""
        if self.device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def image_size(config: DataConfig) -> int:
    return config.image_size or 224


def undecodable(plans: list[BatchPlan], error: Exception) -> HarnessError:
    """Name the file of some batches that cannot be decoded."""
    from PIL import Image

    for view in (view for plan in plans for view in plan.views):
        try:
            with Image.open(io.BytesIO(view.file.content().tobytes())) as image:
                image.load()
        except Exception as fault:
            return HarnessError(f"broken image {view.file.shown}: {fault}")
    return HarnessError(f"a batch starting with {plans[0].views[0].file.shown} could not be decoded: {error}")
