from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import ttest_ind

from harness.board.claims import Claim, compare, load_claims, together, verify
from harness.cli.board import fingerprints_of
from harness.errors import HarnessError


def claim(**changes: Any) -> Claim:
    plain = {"data": "mnist", "model": "lenet", "method": "dst", "density": 0.02, "mean": 98.0, "std": 0.1, "n": 5,
             "recipe": "r", "source": "s", "tag": "P"}  # fmt: skip
    return Claim(**{**plain, **changes})


def result(accuracy: float, density: float, **changes: Any) -> dict[str, Any]:
    counts = {"n_active": round(density * 1e6), "n_weights": 10**6}
    return {"status": "done", "test_accuracy_last": accuracy / 100, **counts, **changes}


def test_all_shipped_claims_are_claims() -> None:
    claims = load_claims()
    assert len(claims) == 272 + 36
    assert {c.tag for c in claims} == {"P", "R", "2", "T"}


def test_the_interval_is_welchs() -> None:
    ours, theirs = [97.9, 98.2, 98.1, 98.4], [98.0, 98.6, 98.3]
    mean, std = sum(theirs) / 3, math.sqrt(sum((v - sum(theirs) / 3) ** 2 for v in theirs) / 2)
    found = compare(ours, mean, std, 3, 0.5)
    expected = ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ([98.1, 98.0, 97.9, 98.0], "confirmed"),
        ([96.1, 96.0, 95.9, 96.0], "contradicted"),
        ([98.9, 97.1, 98.8, 97.0], "underpowered"),
        ([98.0], "underpowered"),  # one run shows nothing, however near
        ([98.0, 98.0], "confirmed"),
    ],
)
def test_verdicts(ours: list[float], verdict: str) -> None:
    assert compare(ours, 98.0, 0.0, 5, 0.5).verdict == verdict
    mirrored = [2 * 98.0 - v for v in ours]
    assert compare(mirrored, 98.0, 0.0, 5, 0.5).verdict == verdict


def test_by_hand() -> None:
    # difference .1; variance .01 / 4 of ours alone: error .05; t(.95, 3) = 2.3534: .1 + .1177 <= .22, not <= .21
    ours = [98.0, 98.2, 98.1 - 0.1 * math.sqrt(0.5), 98.1 + 0.1 * math.sqrt(0.5)]
    assert compare(ours, 98.0, None, None, 0.22).verdict == "confirmed"
    assert compare(ours, 98.0, None, None, 0.21).verdict == "underpowered"


def test_a_density_that_came_out_is_part_of_the_claim() -> None:
    near = [result(98.0 + d, 0.02 + d / 1000, emergent=True) for d in (-0.1, 0.0, 0.1)]
    elsewhere = [result(98.0 + d, 0.05 + d / 1000, emergent=True) for d in (-0.1, 0.0, 0.1)]
    assert verify(claim(), near, 0.5, 0.1).verdict == "confirmed"
    found = verify(claim(), elsewhere, 0.5, 0.1)
    assert (found.accuracy.verdict, found.density.verdict) == ("confirmed", "contradicted")  # type: ignore[union-attr]
    assert found.verdict == "partly"
    asked_for = [{**r, "emergent": False} for r in near]
    assert verify(claim(), asked_for, 0.5, 0.1).density is None


def test_nothing_was_run() -> None:
    failed = {"status": "failed", "reason": "x"}
    searched = result(98.0, 0.02, test_accuracy_last=None)
    assert verify(claim(), [], 0.5, 0.1).verdict == "untested"
    assert verify(claim(), [failed, searched], 0.5, 0.1).verdict == "untested"


def test_only_a_density_was_published() -> None:
    runs = [result(50.0 + d, 0.02 + d / 1000, emergent=True) for d in (-0.1, 0.0, 0.1)]
    found = verify(claim(mean=None, std=None), runs, 0.5, 0.1)
    assert found.accuracy is None
    assert found.verdict == "confirmed"


def test_of_two() -> None:
    assert together({"confirmed", "underpowered"}) == "underpowered"
    assert together({"contradicted", "underpowered"}) == "contradicted"


def test_a_claim_of_a_method_that_its_recipe_does_not_train_is_named() -> None:
    with pytest.raises(
        HarnessError, match=r"recipe demo for riggle at density 0.02, which it does not train; it has: dense at 1"
    ):
        fingerprints_of("demo", "riggle", 0.02)


def test_a_claim_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "claims.yaml").write_text("claims:\n  - {data: mnist, model: lenet, method: dst, density: 2.0}\n")
    monkeypatch.setattr("harness.board.claims.files", lambda package: tmp_path)
    with pytest.raises(HarnessError, match=r"baselines/claims.yaml, claim 0"):
        load_claims()
