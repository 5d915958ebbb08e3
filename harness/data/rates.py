"""How fast images of a folder reach the device, without a network behind them."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from harness.config.schema import DataConfig
from harness.data.batches import Batch, Loader, Share
from harness.data.image_loader import ImageLoader
from harness.data.open import decoder_of, open_data

WARM_UP = 2
"""Batches before the clock starts: the pipeline is being filled."""


@dataclass(frozen=True, slots=True)
class Rate:
    threads: int
    prefetch: int
    images_per_second: float


def tune_loader(config: DataConfig, device: torch.device, seconds: float) -> Iterator[Rate]:
    """The rate of each number of threads and batches ahead that this node may want; `seconds` for each."""
    cores = len(os.sched_getaffinity(0))
    threads = sorted({1, *(n for n in (2, 4, 8, 12, 16, 24, 32, 48, 64) if n < cores), cores})
    loader = open_data(config, 0, Share(), device, config.batch_size)
    assert isinstance(loader, ImageLoader), "image folders are decoded, other sets lie on the device"
    for n, ahead in itertools.product(threads, (2, 4)):
        loader.decoder = decoder_of(config.model_copy(update={"threads": n, "prefetch": ahead}), device)
        yield Rate(n, ahead, rate_of(loader, seconds))


def rate_of(loader: Loader, seconds: float) -> float:
    """Images per second over about as many seconds, through as many epochs as that takes."""
    n_images, began = 0, 0.0
    for number, batch in enumerate(_endless(loader)):
        if number == WARM_UP:
            _wait(batch)
            n_images, began = 0, time.perf_counter()
        n_images += batch.n_global
        if number > WARM_UP and time.perf_counter() - began > seconds:
            _wait(batch)
            return n_images / (time.perf_counter() - began)
    raise AssertionError("a loader without batches")


def _endless(loader: Loader) -> Iterator[Batch]:
    for epoch in itertools.count(1):
        yield from loader.train(epoch)


def _wait(batch: Batch) -> None:
    if batch.images.is_cuda:
        torch.cuda.synchronize(batch.images.device)
