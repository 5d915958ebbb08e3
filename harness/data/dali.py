"""DALI decodes, crops, resizes and mirrors, on the CPU or with the GPU's decoder; windows come from crops.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.data.crops import BatchPlan
from harness.data.image_loader import undecodable

AHEAD = 2
"""Batches read and decoded before they are asked for."""


class DaliDecoder:
    """`device_id` None keeps everything on the CPU."""

    def __init__(self, size: int, threads: int, device_id: int | None) -> None:
        self.size, self.threads, self.device_id = size, threads, device_id

    def decode(self, plans: list[BatchPlan]) -> Iterator[Tensor]:
        pipeline = self._pipeline(plans)  # one for each pass: nothing read ahead for another pass is left in it
        for number in range(len(plans)):
            try:
                (images,) = pipeline.run()
            except (RuntimeError, OSError) as error:  # perhaps of a batch that is read ahead
                raise undecodable(plans[number : number + AHEAD + 1], error) from None
            if self.device_id is None:
                pixels = torch.from_numpy(np.array(images.as_tensor()))
            else:
                pixels = torch.from_dlpack(images.as_tensor()).clone()
            yield pixels.permute(0, 3, 1, 2)

    def _pipeline(self, plans: list[BatchPlan]) -> Any:
        from nvidia.dali import fn, pipeline_def, types

        @pipeline_def(
            batch_size=max(len(plan.views) for plan in plans),
            num_threads=self.threads,
            device_id=self.device_id,
            prefetch_queue_depth=AHEAD,
        )
        def pipeline():  # type: ignore[no-untyped-def]
            content, start, shape, mirrored = fn.external_source(source=map(_inputs, plans), num_outputs=4, batch=True)
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


def _inputs(plan: BatchPlan) -> tuple[list[np.ndarray], ...]:
    """Content, window corner, window shape and mirror flag of each view."""
    return (
        [np.fromfile(v.file.path, np.uint8) for v in plan.views],
        [np.array([v.top, v.left], np.int32) for v in plan.views],
        [np.array([v.height, v.width], np.int32) for v in plan.views],
        [np.array(v.mirrored, np.int32) for v in plan.views],
    )
