"""The oracle: PIL decodes, torchvision v2 resizes."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from harness.data.crops import BatchPlan, Plans, View
from harness.data.image_loader import undecodable


class TorchvisionDecoder:
    def __init__(self, size: int, threads: int, ahead: int) -> None:
        self.size, self.threads, self.ahead = size, threads, ahead

    def decode(self, plans: Plans) -> Iterator[tuple[BatchPlan, Tensor]]:
        with ThreadPoolExecutor(self.threads) as pool:
            started: deque[tuple[BatchPlan, Iterator[Tensor]]] = deque()
            for number in range(len(plans) + self.ahead):
                if number < len(plans):
                    plan = plans[number]
                    started.append((plan, pool.map(self._view, plan.views)))
                if number >= self.ahead and started:
                    plan, views = started.popleft()
                    try:
                        yield plan, torch.stack(list(views))
                    except OSError as error:
                        raise undecodable([plan], error) from None

    def _view(self, view: View) -> Tensor:
        with Image.open(io.BytesIO(view.file.content().tobytes())) as image:
            pixels = V.pil_to_tensor(image.convert("RGB"))
        pixels = V.resized_crop(
            pixels, view.top, view.left, view.height, view.width, [self.size, self.size], antialias=True
        )
        return V.horizontal_flip(pixels) if view.mirrored else pixels
