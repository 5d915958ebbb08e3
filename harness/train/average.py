from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of the trained parameters, swapped in for an evaluation."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.restart()

    def restart(self) -> None:
        """Begin anew from the weights as they are."""
        self.average = {name: p.detach().clone() for name, p in self._trained()}

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    @torch.no_grad()
    def update(self) -> None:
        current = dict(self._trained())
        self.average = {name: value for name, value in self.average.items() if name in current}
        for name, parameter in current.items():
            self.average[name].lerp_(parameter, 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        held = {name: p.detach().clone() for name, p in self._trained() if name in self.average}
        self._put(self.average)
        try:
            yield
        finally:
            self._put(held)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._trained():
            if name in values:
                parameter.copy_(values[name])

    def state(self) -> dict[str, Tensor]:
        return {f"average.{name}": value.cpu().clone() for name, value in self.average.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        for name in self.average:
            self.average[name].copy_(state[f"average.{name}"])
