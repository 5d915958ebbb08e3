"""The digits with test labels that no network can answer: whoever evaluates them fails."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.data.sources import read_digits


def read(*args: Any, **kwargs: Any) -> Any:
    found = read_digits(*args, **kwargs)
    images, labels = found.splits["test"]
    return replace(found, splits={**found.splits, "test": (images, labels + 1000)})
