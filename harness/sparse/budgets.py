"""How many weights each layer keeps: integers that sum to the requested total exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Literal

from harness.errors import HarnessError

Distribution = Literal["erk", "er", "uniform", "erk_single_pass"]
Shapes = Mapping[str, Sequence[int]]


def total_budget(density: float, n_weights: int) -> int:
    """Weights to keep out of `n_weights`: the nearest integer."""
    return round(density * n_weights)


def layer_budgets(shapes: Shapes, total: int, distribution: Distribution) -> dict[str, int]:
    """Integer weights per layer, at least one and at most all of a layer, summing to `total` exactly.

    shapes: weight shape per layer, [out, in, kh, kw] or [out, in].
    Raises HarnessError when `total` is below one weight per layer or above all weights.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    if total < len(sizes):
        raise HarnessError(
            f"a budget of {total} weights is below one weight for each of {len(sizes)} layers: "
            f"the least density here is {len(sizes) / sum(sizes.values()):.2g}"
        )
    if total > sum(sizes.values()):
        raise HarnessError(f"a budget of {total} weights is above the {sum(sizes.values())} there are")
    densities = layer_densities(shapes, total, distribution)
    return largest_remainder({name: densities[name] * sizes[name] for name in sizes}, sizes, total)


def layer_densities(shapes: Shapes, total: int, distribution: Distribution) -> dict[str, float]:
    """Real-valued density per layer for a total budget.

    'erk' (Evci et al. 2020; Mocanu et al. 2018): density proportional to sum(shape) / prod(shape); a layer that would
    exceed 1 stays dense and the rest is solved again. 'er' uses the first two dimensions only. 'erk_single_pass' clips
    at 1 without solving again, as the public EAST code does, and so may fall short of the total.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    if distribution == "uniform":
        return dict.fromkeys(shapes, total / sum(sizes.values()))
    raw = {}
    for name, shape in shapes.items():
        dims = tuple(shape)[:2] if distribution == "er" else tuple(shape)
        raw[name] = sum(dims) / math.prod(dims)
    if distribution == "erk_single_pass":
        scale = total / sum(raw[name] * sizes[name] for name in shapes)
        return {name: min(1.0, scale * raw[name]) for name in shapes}
    dense: set[str] = set()
    while True:
        rest = [name for name in shapes if name not in dense]
        if not rest:
            return dict.fromkeys(shapes, 1.0)
        left = total - sum(sizes[name] for name in dense)
        scale = left / sum(raw[name] * sizes[name] for name in rest)
        largest = max(raw[name] for name in rest)
        if scale * largest <= 1:
            return {name: 1.0 if name in dense else scale * raw[name] for name in shapes}
        dense |= {name for name in rest if raw[name] == largest}


def largest_remainder(wanted: Mapping[str, float], sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Round `wanted` to integers in [1, size] that sum to `total`; ties go to the earlier layer."""
    exact = {name: Fraction(value) for name, value in wanted.items()}
    counts = {name: min(max(int(value), 1), sizes[name]) for name, value in exact.items()}
    while (gap := total - sum(counts.values())) != 0:
        step = 1 if gap > 0 else -1
        movable = [n for n in counts if (counts[n] < sizes[n] if step > 0 else counts[n] > 1)]
        movable.sort(key=lambda n: step * (counts[n] - exact[n]))  # stable: earlier layers first among equals
        for name in movable[: abs(gap)]:
            counts[name] += step
    return counts
