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


def apportion(total: int, shares: Mapping[str, float], capacity: Mapping[str, int]) -> dict[str, int]:
    """`total` in integers as proportional to `shares` as can be, none above its capacity; ties go to the earlier layer.

    What a full layer cannot take goes to the others, by their shares; where no share is left, by capacity. Raises
    ValueError when all capacity together is less than `total`.
    """
    if total > sum(capacity.values()):
        raise ValueError(f"cannot place {total} in {sum(capacity.values())} free positions")
    counts, open_layers, left = dict.fromkeys(shares, 0), list(shares), total
    while True:
        weights = {name: Fraction(shares[name]) for name in open_layers}
        if sum(weights.values()) == 0:
            weights = {name: Fraction(capacity[name]) for name in open_layers}
        whole = sum(weights.values())
        wanted = {name: left * weight / whole if whole else Fraction(0) for name, weight in weights.items()}
        full = [name for name in open_layers if wanted[name] > capacity[name]]
        if not full:
            break
        for name in full:
            counts[name] = capacity[name]
            left -= capacity[name]
            open_layers.remove(name)
    counts |= {name: int(value) for name, value in wanted.items()}
    behind = sorted(open_layers, key=lambda name: counts[name] - wanted[name])
    short = total - sum(counts.values())
    for name in [name for name in behind if counts[name] < capacity[name]][:short]:
        counts[name] += 1
    return counts
