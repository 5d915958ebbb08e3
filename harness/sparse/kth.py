"""The k-th largest of many numbers, exactly, without sorting them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 17
"""Numbers looked at together: half a megabyte, so that each is read from memory once."""

SAMPLE = 1 << 16
SPREAD = 3
"""Standard deviations of a sample's rank on either side: one in four hundred errs, and takes a partition of all."""

MANY = 1 << 19
"""From so many on, a sample pays."""


def kth_largest(values: NDArray[np.floating], k: int) -> np.floating:
    """The k-th largest of a vector, 1 <= k <= its length; not a number if one of the numbers is none.

    A sample says between which two numbers it lies with near certainty; one pass counts what is above them and keeps
    the few between, among which it is then found. Where the sample was wrong, all are searched: the answer is exact
    whatever was drawn. (The two-sided sampling of Floyd and Rivest 1975, Algorithm 489.)
    """
    if values.size >= MANY:
        found = _between_sampled(values, k)
        if found is not None:
            return found
    return _partitioned(values.copy(), k)


def _between_sampled(values: NDArray[np.floating], k: int) -> np.floating | None:
    """None where the sample's two numbers do not enclose the one that is sought."""
    share = k / values.size
    sample = values[np.random.default_rng(0).integers(values.size, size=SAMPLE)]
    rank, spread = SAMPLE * (1 - share), SPREAD * (SAMPLE * share * (1 - share)) ** 0.5 + 4
    ends = [max(0, int(rank - spread)), min(SAMPLE - 1, int(rank + spread))]
    sample.partition(ends)
    low, high = sample[ends]
    n_above, between = 0, []
    for start in range(0, values.size, CHUNK):
        chunk = values[start : start + CHUNK]
        above, at_least = chunk > high, chunk >= low
        n_above += int(np.count_nonzero(above))
        between.append(chunk[np.logical_xor(above, at_least, out=above)])
        if np.isnan(chunk.max()):
            return chunk.max()
    held = np.concatenate(between)
    return _partitioned(held, k - n_above) if 0 < k - n_above <= held.size else None


def _partitioned(values: NDArray[np.floating], k: int) -> np.floating:
    """In place."""
    values.partition(values.size - k)
    largest = values[values.size - k :].max()  # not a number where one is: such are placed last
    return largest if np.isnan(largest) else values[values.size - k]
