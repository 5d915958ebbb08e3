"""A search for the option that makes a density come out, where a method takes none: full runs, one after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.errors import HarnessError


@dataclass(frozen=True, slots=True)
class Tried:
    value: float
    density: float


def match_density(
    measure: Callable[[float], float], target: float, low: float, high: float, n_runs: int, tolerance: float
) -> Iterator[Tried]:
    """Halve the interval [low, high] in the logarithm of the value; yields each full run.

    measure: trains with a value and returns the density that came out. It stops within `tolerance` of the target,
    relative, or after `n_runs`. Raises HarnessError if the densities at both ends lie on one side of the target.
    """
    ends = []
    for value in (low, high):
        ends.append(Tried(value, measure(value)))
        yield ends[-1]
        if abs(ends[-1].density / target - 1) <= tolerance:
            return
    if (ends[0].density - target) * (ends[1].density - target) > 0:
        raise HarnessError(
            f"density {target:g} is not between what comes out at {low:g} ({ends[0].density:.4g}) and at {high:g} "
            f"({ends[1].density:.4g}): move --low or --high"
        )
    falls = ends[0].density > ends[1].density
    for _ in range(n_runs - 2):
        middle = math.sqrt(low * high)
        tried = Tried(middle, measure(middle))
        yield tried
        if abs(tried.density / target - 1) <= tolerance:
            return
        if (tried.density > target) == falls:
            low = middle
        else:
            high = middle
