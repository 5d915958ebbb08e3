"""The oracle: PIL decodes, torchvision v2 resizes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from harness.data.crops import BatchPlan, View
from harness.data.image_loader import undecodable


class TorchvisionDecoder:
    def __init__(self, size: int, threads: int) -> None:
        self.size, self.threads = size, threads

    def decode(self, plans: list[BatchPlan]) -> Iterator[Tensor]:
        with ThreadPoolExecutor(self.threads) as pool:
            ahead = [pool.map(self._view, plan.views) for plan in plans[:1]]
            for number, plan in enumerate(plans):
                if number + 1 < len(plans):
                    ahead.append(pool.map(self._view, plans[number + 1].views))
                try:
                    yield torch.stack(list(ahead.pop(0)))
                except OSError as error:
                    raise undecodable([plan], error) from None

    def _view(self, view: View) -> Tensor:
        with Image.open(view.file.path) as image:
            pixels = V.pil_to_tensor(image.convert("RGB"))
        pixels = V.resized_crop(
            pixels, view.top, view.left, view.height, view.width, [self.size, self.size], antialias=True
        )
        return V.horizontal_flip(pixels) if view.mirrored else pixels
