from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field

from harness.config.schema import MethodOptions
from harness.sparse.method import Masks
from harness.sparse.pruning import MagnitudePruning, PruningOptions


class IMPOptions(PruningOptions):
    name: str = "imp"
    distribution: Literal["global"] = "global"
    fraction: float = Field(0.2, gt=0, lt=1)
    """Share of the remaining weights pruned after every round; after the last as many as the density asks for."""

    rewind: float = Field(0.0, ge=0, lt=1)
    """Fraction of the first round whose weights every later round starts from: 0 is the initialisation."""


def n_prunings(density: float, fraction: float) -> int:
    """Prunings of `fraction` of what is left that bring 1 down to `density`."""
    return max(0, math.ceil(math.log(density) / math.log(1 - fraction) - 1e-9))


class IMP(MagnitudePruning):
    """Iterative magnitude pruning with rewinding (lottery tickets): train, prune, return to early weights, train again.

    All rounds are one run; `schedule` describes one round, and the total of steps is reported.
    """

    Options: ClassVar = IMPOptions
    options: IMPOptions
    family: ClassVar[str] = "dense to sparse"
    source: ClassVar[str] = "Frankle and Carbin 2019; Frankle et al. 2020"

    @classmethod
    def length(cls, options: MethodOptions, schedule_steps: int) -> int:
        assert isinstance(options, IMPOptions)
        kept = round(options.rewind * schedule_steps)
        return schedule_steps + n_prunings(options.density, options.fraction) * (schedule_steps - kept)

    @property
    def rewind_step(self) -> int:
        return round(self.options.rewind * self.clock.schedule_steps)

    @property
    def later_steps(self) -> int:
        """Steps of every round but the first."""
        return self.clock.schedule_steps - self.rewind_step

    def schedule_step(self, step: int) -> int:
        first = self.clock.schedule_steps
        return step if step < first else self.rewind_step + (step - first) % self.later_steps

    def total_at(self, step: int) -> int:
        """Of the round that step `step` belongs to; at its end what it trained is still whole."""
        first, last = self.clock.schedule_steps, n_prunings(self.options.density, self.options.fraction)
        done = 0 if step <= first else 1 + (step - first - 1) // self.later_steps
        n = self.n_weights
        for _ in range(done):
            n -= math.ceil(self.options.fraction * n)
        return self.target if done == last else max(n, self.target)

    def pruned_share(self, step: int) -> float:
        return (self.n_weights - self.total_at(step)) / max(1, self.n_weights - self.target)

    def update_due(self, step: int) -> bool:
        return False

    def saves_at(self, step: int) -> bool:
        return step == self.rewind_step

    def starts_round(self, step: int) -> bool:
        first = self.clock.schedule_steps
        return first <= step < self.clock.total_steps and (step - first) % self.later_steps == 0

    def new_masks(self, step: int) -> Masks:
        return super().new_masks(step + 1)
