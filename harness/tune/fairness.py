"""What a number found by a search is worth: the best that n trials would have found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def expected_best(values: Sequence[float], maximise: bool = True) -> list[float]:
    """Expected best of n = 1, 2, ..., len(values) trials drawn with replacement from the values found.

    Dodge et al. 2019, "Show Your Work", section 3: exact for random search; for a sampler that learns, a summary of
    what it found. Empty for no values.
    """
    ordered = sorted(values, reverse=not maximise)
    count = len(ordered)
    curve = []
    for n in range(1, count + 1):
        # the i-th smallest is the best of n draws if all are among the first i and not all among the first i - 1
        curve.append(sum(v * ((i / count) ** n - ((i - 1) / count) ** n) for i, v in enumerate(ordered, 1)))
    return curve


def curve_of(summary: dict[str, Any]) -> list[float]:
    """Of a study with one objective."""
    values = [t["values"][0] for t in summary["trials"] if t["state"] == "complete"]
    return expected_best(values, summary["objectives"][0]["direction"] == "maximize")


def compare(summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per method of a search with one objective, the best confirmed mean first."""
    lines = []
    for summary in summaries:
        values = [t["values"][0] for t in summary["trials"] if t["state"] == "complete"]
        maximise = summary["objectives"][0]["direction"] == "maximize"
        best = next((c for c in summary["confirmed"] if c["number"] == summary["best"]), None)
        lines.append(
            {
                "study": summary["name"], "trials": summary["n_trials"], "train_seconds": summary["train_seconds"],
                "gpu_hours": summary["gpu_hours"], "train_flops": summary["train_flops"],
                "best_searched": (max if maximise else min)(values) if values else None,
                "fresh_mean": best["mean"] if best else None, "fresh_std": best["std"] if best else None,
                "n_fresh": len(best["values"]) if best else 0, "expected_best": curve_of(summary),
            }
        )  # fmt: skip
    sign = -1 if summaries[0]["objectives"][0]["direction"] == "maximize" else 1
    lines.sort(key=lambda line: (line["fresh_mean"] is None, sign * (line["fresh_mean"] or 0)))
    return lines
