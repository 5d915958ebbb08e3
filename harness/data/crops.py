"""One crop law for image folders, whichever loader applies it: a window per image, drawn from keyed noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch

from harness.config.schema import DataConfig
from harness.data.batches import Share, batch_bounds, epoch_order, share_of
from harness.data.folder import ImageFile
from harness.sparse.noise import key_of

TRIES = 10
RATIO = (math.log(3 / 4), math.log(4 / 3))
CENTRE = 224 / 256
"""Evaluation sees the central square of this share of the shorter side (Resize 256, CenterCrop 224)."""


@dataclass(frozen=True, slots=True)
class View:
    """An image file, the window of it that is shown, and whether it is mirrored. Pixels, row before column."""

    file: ImageFile
    top: int
    left: int
    height: int
    width: int
    mirrored: bool


@dataclass(frozen=True, slots=True)
class BatchPlan:
    views: list[View]
    weight: torch.Tensor
    n_global: int


class Plans(Sequence[BatchPlan]):
    """The batches of a pass, each planned when it is asked for: an epoch of ImageNet starts at once."""

    def __init__(self, n: int, plan: Callable[[int], BatchPlan]) -> None:
        self.n, self.plan = n, plan

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, number: int) -> BatchPlan: ...
    @overload
    def __getitem__(self, number: slice) -> list[BatchPlan]: ...
    def __getitem__(self, number: int | slice) -> BatchPlan | list[BatchPlan]:
        if isinstance(number, slice):
            return [self.plan(i) for i in range(*number.indices(self.n))]
        if not 0 <= number < self.n:
            raise IndexError(number)
        return self.plan(number)


def random_window(
    height: int, width: int, uniform: np.ndarray, scale: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Area uniform in `scale` of the image, log aspect ratio uniform in [3/4, 4/3] (Szegedy et al. 2015).

    uniform: [TRIES, 4] in [0, 1). After TRIES windows that do not fit, the largest central window of allowed ratio.
    """
    for area_u, ratio_u, top_u, left_u in uniform:
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area_u)
        ratio = math.exp(RATIO[0] + (RATIO[1] - RATIO[0]) * ratio_u)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int((height - h + 1) * top_u), int((width - w + 1) * left_u), h, w
    h = min(height, round(width / math.exp(RATIO[0])))
    w = min(width, round(height * math.exp(RATIO[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def central_window(height: int, width: int) -> tuple[int, int, int, int]:
    side = max(1, round(CENTRE * min(height, width)))
    return (height - side) // 2, (width - side) // 2, side, side


def train_plan(
    files: list[ImageFile], config: DataConfig, seed: int, epoch: int, share: Share, first_batch: int
) -> Plans:
    """This rank's views of an epoch, from batch `first_batch` on."""
    order, bounds = epoch_order(len(files), seed, epoch), batch_bounds(len(files), config.batch_size)

    def plan(after_first: int) -> BatchPlan:
        number = first_batch + after_first
        start, end = bounds[number]
        # keyed by the global batch and drawn for all of it: the number of ranks changes nothing
        uniform = np.random.default_rng(key_of(seed, "crop", epoch, number)).random((end - start, TRIES * 4 + 1))
        where, weight = share_of(torch.arange(start, end), share)
        views = []
        for position in where.tolist():
            file, draw = files[int(order[position])], uniform[position - start]
            window = random_window(file.height, file.width, draw[:-1].reshape(TRIES, 4), config.crop_scale)
            views.append(View(file, *window, mirrored=config.flip and bool(draw[-1] < 0.5)))
        return BatchPlan(views, weight, end - start)

    return Plans(max(0, len(bounds) - first_batch), plan)


def evaluation_plan(files: list[ImageFile], batch_size: int, share: Share) -> Plans:
    bounds = batch_bounds(len(files), batch_size)

    def plan(number: int) -> BatchPlan:
        start, end = bounds[number]
        where, weight = share_of(torch.arange(start, end), share)
        views = [
            View(files[i], *central_window(files[i].height, files[i].width), mirrored=False) for i in where.tolist()
        ]
        return BatchPlan(views, weight, end - start)

    return Plans(len(bounds), plan)
