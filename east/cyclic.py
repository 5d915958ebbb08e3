"""Cyclic density (EAST, spec 4): from the target up to a multiple of it and back, a few times, ending on the target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from harness.config.schema import Section
from harness.errors import HarnessError
from harness.sparse.schedules import Clock


class CyclicOptions(Section):
    shape: Literal["cosine", "triangular"] = "cosine"
    n_cycles: int = Field(2, ge=1)
    cycle_epochs: float = Field(50.0, gt=0)
    """Length of the first cycle."""

    growth: float = Field(1.0, gt=0)
    """Each cycle is this many times as long as the one before."""

    multiplier: float = Field(3.0, ge=1)
    """Density at the peak over the target."""

    interval: int = Field(1000, ge=1)
    """Optimizer steps between moves of the masks inside the phase."""

    hold_average: bool = False
    """A control: keep the run's time-averaged density from start to end instead of cycling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CyclicDensity:
    """Density after `step` steps: leaves the target, peaks once per cycle, and ends exactly on the target."""

    target: float
    peak: float
    lengths: tuple[int, ...]
    shape: str = "cosine"

    @classmethod
    def of(cls, options: CyclicOptions, target: float, clock: Clock) -> CyclicDensity:
        first = options.cycle_epochs * clock.steps_per_epoch
        lengths = tuple(max(1, round(first * options.growth**i)) for i in range(options.n_cycles))
        if sum(lengths) > clock.total_steps:
            raise HarnessError(
                f"method.cyclic: {options.n_cycles} cycles take {sum(lengths)} steps, more than the run's "
                f"{clock.total_steps}: shorten cycle_epochs or n_cycles"
            )
        return cls(target=target, peak=options.multiplier * target, lengths=lengths, shape=options.shape)

    @property
    def end(self) -> int:
        """Step at which the phase is over."""
        return sum(self.lengths)

    def average(self, total_steps: int) -> float:
        """Mean density over a run of `total_steps`: half-way to the peak inside the phase, the target after it."""
        return self.target + (self.peak - self.target) / 2 * self.end / total_steps

    def at(self, step: int) -> float:
        if step >= self.end:
            return self.target  # not wherever the last update left it
        start = 0
        for length in self.lengths:
            if step < start + length:
                break
            start += length
        p = (step - start) / length
        wave = (1 - math.cos(2 * math.pi * p)) / 2 if self.shape == "cosine" else 1 - abs(2 * p - 1)
        return self.target + (self.peak - self.target) * wave
