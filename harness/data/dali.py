"""DALI decodes, crops, resizes and mirrors, on the CPU or with the GPU's decoder; windows come from crops.py."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.data.crops import BatchPlan, Plans, View
from harness.data.image_loader import undecodable


class DaliDecoder:
    """`device_id` None keeps everything on the CPU. ahead: batches decoded before they are asked for."""

    def __init__(self, size: int, threads: int, ahead: int, device_id: int | None) -> None:
        self.size, self.threads, self.ahead, self.device_id = size, threads, ahead, device_id

    def decode(self, plans: Plans) -> Iterator[tuple[BatchPlan, Tensor]]:
        if not plans:
            return
        fed: deque[BatchPlan] = deque()
        with ThreadPoolExecutor(self.threads) as readers:
            # one for each pass: nothing read ahead for another pass is left in it
            pipeline = self._pipeline(_read_ahead(plans, readers, fed), largest=len(plans[0].views))
            for number in range(len(plans)):
                try:
                    (images,) = pipeline.run()
                except (RuntimeError, OSError) as error:  # perhaps of a batch that is read ahead
                    raise undecodable(plans[number : number + self.ahead + 2], error) from None
                if self.device_id is None:
                    pixels = torch.from_numpy(np.array(images.as_tensor()))
                else:
                    pixels = torch.from_dlpack(images.as_tensor()).clone()
                yield fed.popleft(), pixels.permute(0, 3, 1, 2)

    def _pipeline(self, batches: Iterator[tuple[list[np.ndarray], ...]], largest: int) -> Any:
        from nvidia.dali import fn, pipeline_def, types

        @pipeline_def(
            batch_size=largest, num_threads=self.threads, device_id=self.device_id, prefetch_queue_depth=self.ahead
        )
        def pipeline():  # type: ignore[no-untyped-def]
            content, start, shape, mirrored = fn.external_source(source=batches, num_outputs=4, batch=True)
            images = fn.decoders.image_slice(
                content, start, shape, axis_names="HW", normalized_anchor=False, normalized_shape=False,
                device="cpu" if self.device_id is None else "mixed", output_type=types.RGB, adjust_orientation=False,
                jpeg_fancy_upsampling=True,
            )  # fmt: skip
            images = fn.resize(images, size=[self.size, self.size], interp_type=types.INTERP_LINEAR, antialias=True)
            return fn.flip(images, horizontal=mirrored)

        built = pipeline()
        built.build()
        return built


def _read_ahead(
    plans: Plans, readers: ThreadPoolExecutor, fed: deque[BatchPlan]
) -> Iterator[tuple[list[np.ndarray], ...]]:
    """Content, window corner, window shape and mirror flag of each view; files of the next batch are being read."""
    reading: deque[tuple[BatchPlan, Iterator[np.ndarray]]] = deque()
    for number in range(len(plans) + 1):
        if number < len(plans):
            plan = plans[number]
            reading.append((plan, readers.map(_content, plan.views)))
        if number > 0:
            plan, content = reading.popleft()
            fed.append(plan)
            yield (
                list(content),
                [np.array([v.top, v.left], np.int32) for v in plan.views],
                [np.array([v.height, v.width], np.int32) for v in plan.views],
                [np.array(v.mirrored, np.int32) for v in plan.views],
            )


def _content(view: View) -> np.ndarray:
    return np.fromfile(view.file.path, np.uint8)
