"""Everything that changes during training, as a pure function of the optimizer step."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """The length of a run. A step is one optimizer step; step k has been taken k times, counted from 1."""

    total_steps: int
    steps_per_epoch: int
    schedule_steps: int = 0
    """Length of the learning-rate schedule, shorter than the run where a method trains in rounds."""

    def epoch(self, step: int) -> int:
        """The 1-based epoch that the next step belongs to, after `step` steps."""
        return step // self.steps_per_epoch + 1

    @property
    def epochs(self) -> float:
        return self.total_steps / self.steps_per_epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineDrop:
    """Drop fraction from `start` to `end` along half a cosine; nothing is dropped after `until`."""

    start: float
    end: float
    until: int

    def at(self, step: int) -> float:
        if step >= self.until:
            return self.end
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * step / self.until)) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """The learning rate of a step: a linear warm-up, then the law 'step', 'cosine' or 'constant'."""

    base: float
    law: str
    total_steps: int
    warmup_steps: int = 0
    milestone_steps: tuple[int, ...] = ()
    factor: float = 0.1

    def at(self, step: int) -> float:
        """`step`: steps already taken, 0 for the first."""
        if step < self.warmup_steps:
            return self.base * (step + 1) / self.warmup_steps
        if self.law == "cosine":
            done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
            return self.base * (1 + math.cos(math.pi * done)) / 2
        if self.law == "step":
            return self.base * self.factor ** sum(step >= m for m in self.milestone_steps)
        return self.base
