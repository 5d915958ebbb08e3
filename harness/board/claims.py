"""Published numbers beside our own: each is confirmed, contradicted, in part either, underpowered, or untested."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from statistics import mean, variance
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from harness.config.recipes import explain
from harness.config.schema import Section
from harness.errors import HarnessError

PACKAGES = ("baselines", "east")
POINTS = 0.5
"""Tolerance in accuracy: points of difference that do not matter."""

SHARE = 0.1
"""Relative tolerance in a density that came out of training."""

Verdict = Literal["confirmed", "contradicted", "partly", "underpowered", "untested"]


class Claim(Section):
    """A published cell. Means are top-1 test accuracies in %; density is kept over maskable weights."""

    data: str
    model: str
    method: str
    density: float | None = Field(gt=0, le=1)
    """None where it was not published."""

    mean: float | None
    """None where only a density was published."""

    std: float | None
    n: int | None
    recipe: str | None
    """What trains it here; None where its setting is not known."""

    source: str
    tag: str
    density_std: float | None = None
    variant: str | None = None
    """What tells it from other cells of the same method, network and density."""

    superseded: bool = False
    """An earlier version of the same paper printed this."""

    @property
    def label(self) -> str:
        """What runs of its recipe stand under."""
        return f"{self.method}, {self.variant}" if self.variant else self.method


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ours less theirs: in points for accuracy, relative to the claim for density."""

    difference: float
    low: float | None
    """Ends of the 95 % interval (Welch); None with fewer than two runs of ours."""

    high: float | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Verified:
    claim: Claim
    accuracies: tuple[float, ...]
    """Ours, in %."""

    densities: tuple[float, ...]
    accuracy: Comparison | None
    density: Comparison | None
    """None where the density was asked for, and so is exact."""

    verdict: Verdict


def load_claims() -> list[Claim]:
    """Of all shipped claims files; HarnessError names a claim that is none."""
    texts = {f"{package}/claims.yaml": (files(package) / "claims.yaml").read_bytes() for package in PACKAGES}
    return [claim for where, text in texts.items() for claim in read_claims(text, where)]


def read_claims(text: bytes, where: str) -> list[Claim]:
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise HarnessError(f"{where}: not valid YAML: {error}") from None
    entries = content.get("claims") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise HarnessError(f"{where}: holds no list of claims")
    claims = []
    for i, entry in enumerate(entries):
        try:
            claims.append(Claim.model_validate(entry))
        except ValidationError as error:
            raise HarnessError(explain(error, f"{where}, claim {i}", Claim)) from None
    return claims


def compare(ours: Sequence[float], theirs: float, std: float | None, n: int | None, tolerance: float) -> Comparison:
    """Equivalence by two one-sided tests at 5 %: confirmed if the 90 % interval of the difference lies within the
    tolerance, contradicted if the 95 % interval lies outside of it, else underpowered.

    A published mean whose spread or number of runs is not known counts as exact.
    """
    difference = mean(ours) - theirs
    if len(ours) < 2:
        return Comparison(difference, None, None, "underpowered")
    from scipy.stats import t

    parts = [(variance(ours) / len(ours), len(ours) - 1)]
    if std is not None and n is not None and n > 1:
        parts.append((std**2 / n, n - 1))
    error = math.sqrt(sum(v for v, _ in parts))
    if error == 0:
        low = high = inner = difference
        reach = 0.0
    else:
        freedom = error**4 / sum(v**2 / f for v, f in parts)
        wide, reach = (float(t.ppf(q, freedom)) * error for q in (0.975, 0.95))
        low, high, inner = difference - wide, difference + wide, difference
    if abs(inner) + reach <= tolerance:
        verdict: Verdict = "confirmed"
    elif low > tolerance or high < -tolerance:
        verdict = "contradicted"
    else:
        verdict = "underpowered"
    return Comparison(difference, low, high, verdict)


def verify(claim: Claim, results: list[dict[str, Any]], points: float, share: float) -> Verified:
    """results: our runs of the claim's recipe. points: tolerance in accuracy; share: relative one in density, where it
    came out of training."""
    done = [r for r in results if r["status"] == "done" and r.get("test_accuracy_last") is not None]
    accuracies = tuple(100 * r["test_accuracy_last"] for r in done)
    densities = tuple(r["n_active"] / r["n_weights"] for r in done)
    if not done:
        return Verified(claim, (), (), None, None, "untested")
    accuracy = compare(accuracies, claim.mean, claim.std, claim.n, points) if claim.mean is not None else None
    density = None
    if claim.density is not None and any(r.get("emergent") for r in done):
        relative = [d / claim.density for d in densities]
        spread = claim.density_std / claim.density if claim.density_std is not None else None
        density = compare(relative, 1.0, spread, claim.n, share)
    verdicts = {c.verdict for c in (accuracy, density) if c is not None}
    return Verified(claim, accuracies, densities, accuracy, density, together(verdicts))


def together(verdicts: set[Verdict]) -> Verdict:
    """Of accuracy and density."""
    if len(verdicts) == 1:
        return next(iter(verdicts))
    if verdicts == {"confirmed", "contradicted"}:
        return "partly"
    return "contradicted" if "contradicted" in verdicts else "underpowered"
