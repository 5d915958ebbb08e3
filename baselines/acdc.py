from __future__ import annotations

import bisect
from typing import ClassVar

from pydantic import model_validator

from harness.sparse.pruning import MagnitudePruning, PruningOptions


class ACDCOptions(PruningOptions):
    name: str = "acdc"
    sparse_from: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85)
    """Fractions of the run at which a compressed phase starts; the last one lasts to the end."""

    dense_from: tuple[float, ...] = (0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75)
    """Fractions of the run at which a dense phase starts again: one between every two of the above."""

    @model_validator(mode="after")
    def _alternating(self) -> ACDCOptions:
        starts = [start for pair in zip(self.sparse_from, (*self.dense_from, 1.0), strict=False) for start in pair]
        if len(self.sparse_from) != len(self.dense_from) + 1 or not all(
            a < b for a, b in zip([0.0, *starts], starts, strict=False)
        ):
            raise ValueError(
                "phases alternate and end compressed: 0 < sparse_from[0] < dense_from[0] < sparse_from[1] < ... < 1, "
                f"got sparse_from {self.sparse_from} and dense_from {self.dense_from}"
            )
        return self


class ACDC(MagnitudePruning):
    """Alternating compressed and decompressed phases: pruned to the target, then dense again, ending pruned.

    Weights that were pruned start from zero in the next dense phase, and all momentum with it.
    """

    Options: ClassVar = ACDCOptions
    options: ACDCOptions
    family: ClassVar[str] = "dense to sparse"
    source: ClassVar[str] = "Peste et al. 2021"

    @property
    def monotone(self) -> bool:
        return False

    @property
    def switches(self) -> list[int]:
        """Steps after which the phase changes: compressed, dense, compressed, ..."""
        fractions = sorted((*self.options.sparse_from, *self.options.dense_from))
        return [round(fraction * self.clock.total_steps) for fraction in fractions]

    def update_due(self, step: int) -> bool:
        return step in self.switches

    def pruned_share(self, step: int) -> float:
        return float(bisect.bisect_right(self.switches, step) % 2)

    def resets_momentum(self, step: int) -> bool:
        return self.update_due(step) and self.pruned_share(step) == 0
