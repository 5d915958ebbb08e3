"""DALI decodes windows of images: on a GPU it sizes and mirrors them too, on a CPU torch does. Windows: crops.py."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from harness.data.crops import BatchPlan, Plans, View
from harness.data.image_loader import undecodable

Made = TypeVar("Made")


class DaliDecoder:
    """`device_id` None keeps everything on the CPU. ahead: batches decoded before they are asked for."""

    def __init__(self, size: int, threads: int, ahead: int, device_id: int | None) -> None:
        self.size, self.threads, self.ahead, self.device_id = size, threads, ahead, device_id
        self._n_inputs = 3 if device_id is None else 4

    def decode(self, plans: Plans) -> Iterator[tuple[BatchPlan, Tensor]]:
        if not plans:
            return
        fed: deque[BatchPlan] = deque()
        with ThreadPoolExecutor(self.threads) as pool:
            # one for each pass: nothing read ahead for another pass is left in it
            pipeline = self._pipeline(_read_ahead(plans, pool, fed, self._n_inputs), largest=len(plans[0].views))

            def batch(number: int) -> tuple[BatchPlan, Tensor]:
                try:
                    (images,) = pipeline.run()
                except (RuntimeError, OSError) as error:  # perhaps of a batch that is read ahead
                    raise undecodable(plans[number : number + self.ahead + 2], error) from None
                plan = fed.popleft()
                if self.device_id is None:
                    return plan, self._sized(images, plan.views, pool)
                return plan, torch.from_dlpack(images.as_tensor()).clone().permute(0, 3, 1, 2)

            if self.device_id is None:
                yield from _ahead(batch, len(plans), self.ahead)
            else:  # the pipeline itself works ahead
                yield from map(batch, range(len(plans)))

    def _pipeline(self, batches: Iterator[tuple[list[np.ndarray], ...]], largest: int) -> Any:
        from nvidia.dali import fn, pipeline_def, types

        @pipeline_def(
            batch_size=largest, num_threads=self.threads, device_id=self.device_id, prefetch_queue_depth=self.ahead
        )
        def pipeline():  # type: ignore[no-untyped-def]
            content, start, shape, *mirrored = fn.external_source(
                source=batches, num_outputs=self._n_inputs, batch=True
            )
            images = fn.decoders.image_slice(
                content, start, shape, axis_names="HW", normalized_anchor=False, normalized_shape=False,
                device="mixed" if mirrored else "cpu", output_type=types.RGB, adjust_orientation=False,
                jpeg_fancy_upsampling=True,
            )  # fmt: skip
            if not mirrored:
                return images
            images = fn.resize(images, size=[self.size, self.size], interp_type=types.INTERP_LINEAR, antialias=True)
            return fn.flip(images, horizontal=mirrored[0])

        built = pipeline()
        built.build()
        return built

    def _sized(self, images: Any, views: list[View], pool: ThreadPoolExecutor) -> Tensor:
        """By torch's kernels for bytes: DALI's resize is in floats and takes a CPU longer than decoding."""
        pixels = np.empty((len(views), self.size, self.size, 3), np.uint8)

        def one(number: int) -> None:
            window = torch.from_numpy(np.asarray(images.at(number))).permute(2, 0, 1)
            window = V.resize(window, [self.size, self.size], antialias=True)
            if views[number].mirrored:
                window = V.horizontal_flip(window)
            pixels[number] = window.permute(1, 2, 0).numpy()

        list(pool.map(one, range(len(views))))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _ahead(call: Callable[[int], Made], n: int, ahead: int) -> Iterator[Made]:
    """The results of call(0) to call(n - 1), in order, made by one thread that works `ahead` results ahead."""
    started: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(1) as thread:
        for number in range(n + ahead):
            if number < n:
                started.append(thread.submit(call, number))
            if number >= ahead and started:
                yield started.popleft().result()


def _read_ahead(
    plans: Plans, readers: ThreadPoolExecutor, fed: deque[BatchPlan], n_inputs: int
) -> Iterator[tuple[list[np.ndarray], ...]]:
    """The first of content, window corner, window shape, mirror flag of each view; the next batch is being read."""
    reading: deque[tuple[BatchPlan, Iterator[np.ndarray]]] = deque()
    for number in range(len(plans) + 1):
        if number < len(plans):
            plan = plans[number]
            reading.append((plan, readers.map(lambda view: view.file.content(), plan.views)))
        if number > 0:
            plan, content = reading.popleft()
            fed.append(plan)
            inputs = (
                list(content),
                [np.array([v.top, v.left], np.int32) for v in plan.views],
                [np.array([v.height, v.width], np.int32) for v in plan.views],
                [np.array(v.mirrored, np.int32) for v in plan.views],
            )
            yield inputs[:n_inputs]
