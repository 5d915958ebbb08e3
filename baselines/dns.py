from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from harness.errors import HarnessError
from harness.sparse.masks import HiddenWeight, WeightView
from harness.sparse.method import EmergentMethod, EmergentOptions, Masks
from harness.sparse.noise import keyed_generator


class DNSOptions(EmergentOptions):
    name: str = "dns"
    c_rate: float = 4.0
    """A layer's threshold is the mean of its magnitudes plus this many standard deviations, at the first surgery."""

    c_rates: dict[str, float] = Field(default_factory=dict)
    """By layer name, where it is another."""

    gamma: float = Field(1e-4, ge=0)
    """Masks change after step i of the surgery with probability (1 + gamma i) ** -power."""

    power: float = Field(1.0, ge=0)
    begin: float = Field(0.5, ge=0, lt=1)
    """Fraction of the run that trains the dense network first: the authors' examples start from a trained one."""

    end: float = Field(0.9, gt=0, le=1)
    """Fraction of the run after which masks are fixed."""


class Surgery(HiddenWeight):
    """theta * mask; every weight is trained. `base` is the layer's threshold, below zero until the surgery begins."""

    base: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask, trains_all=True)
        self.register_buffer("base", torch.tensor(-1.0))


class DNS(EmergentMethod):
    """Dynamic network surgery: prune below 0.9 of a threshold, splice above 1.1 of it, leave what lies between."""

    Options: ClassVar = DNSOptions
    options: DNSOptions
    family: ClassVar[str] = "dense to sparse"
    source: ClassVar[str] = "Guo et al. 2016"

    def views(self) -> dict[str, WeightView]:
        unknown = set(self.options.c_rates) - set(self.shapes)
        if unknown:
            raise HarnessError(f"method.c_rates: no layer {sorted(unknown)}; the layers: {', '.join(self.shapes)}")
        return {layer: Surgery(torch.ones(shape, dtype=torch.bool)) for layer, shape in self.shapes.items()}

    def update_due(self, step: int) -> bool:
        first, last = (round(f * self.clock.total_steps) for f in (self.options.begin, self.options.end))
        if not first < step <= last:
            return False
        coin = float(torch.rand((), generator=keyed_generator(self.seed, "surgery", step), dtype=torch.float64))
        return step == first + 1 or coin < (1 + self.options.gamma * (step - first)) ** -self.options.power

    def new_masks(self, step: int) -> Masks:
        out = {}
        for layer in self.shapes:
            view, magnitude = self.tensors.view(layer), self.tensors.weight(layer).abs()
            assert isinstance(view, Surgery)
            if view.base < 0:
                there = magnitude[magnitude > 0]
                rate = self.options.c_rates.get(layer, self.options.c_rate)
                view.base.copy_((there.mean() + rate * there.std(correction=0)).clamp(min=0))
            out[layer] = (view.mask & (magnitude > 0.9 * view.base)) | (magnitude > 1.1 * view.base)
        return out

    def is_final(self, step: int) -> bool:
        return step >= round(self.options.end * self.clock.total_steps)
