from __future__ import annotations

from typing import ClassVar

from harness.sparse.method import SparseMethod


class Static(SparseMethod):
    """A random mask that never changes: what every cleverer method must beat."""

    family: ClassVar[str] = "at initialisation"
    source: ClassVar[str] = "Mocanu et al. 2018 (ER); Evci et al. 2020 (ERK)"
