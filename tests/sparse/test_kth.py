from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.sparse import kth
from harness.sparse.kth import kth_largest
from harness.sparse.selection import top_k_mask

SHAPES = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "rising": lambda rng, n: np.arange(n, dtype=float),
    "falling": lambda rng, n: -np.arange(n, dtype=float),
    "equal": lambda rng, n: np.full(n, 0.25),
    "few values": lambda rng, n: rng.integers(3, size=n).astype(float),
    "mostly zero": lambda rng, n: rng.standard_normal(n) * (rng.random(n) < 0.01),
    "mostly -inf": lambda rng, n: np.where(rng.random(n) < 0.01, rng.standard_normal(n), -np.inf),
    "one large block": lambda rng, n: np.where(np.arange(n) > 0.9 * n, 100.0, 1.0) + rng.random(n),
    "heavy tails": lambda rng, n: rng.standard_cauchy(n),
}


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(SHAPES)), st.integers(1, 5000), st.floats(0, 1), st.integers(0, 9),
    st.sampled_from([np.float32, np.float64]),
)  # fmt: skip
def test_equals_a_sort(shape: str, n: int, where: float, seed: int, dtype: type) -> None:
    values = SHAPES[shape](np.random.default_rng(seed), n).astype(dtype)
    k, before = 1 + int(where * (n - 1)), values.copy()
    expected = np.sort(values)[n - k]
    with pytest.MonkeyPatch.context() as patch:  # so that few numbers take the way of many, and a sample errs
        patch.setattr(kth, "MANY", 300)
        patch.setattr(kth, "SAMPLE", 64)
        patch.setattr(kth, "CHUNK", 128)
        assert kth_largest(values, k) == expected
    assert (values == before).all()


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_masks_of_many_scores_equal_a_stable_sort(shape: str) -> None:
    n = kth.MANY + 12_345
    scores = torch.from_numpy(SHAPES[shape](np.random.default_rng(1), n).astype(np.float32))
    order = torch.sort(scores, descending=True, stable=True).indices
    for k in (1, 777, n // 2, n - 3, n):
        expected = torch.zeros(n, dtype=torch.bool)
        expected[order[:k]] = True
        assert top_k_mask(scores, k).equal(expected)


def test_a_sample_that_misleads_costs_time_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kth, "MANY", 1000)
    monkeypatch.setattr(kth, "SAMPLE", 2000)
    monkeypatch.setattr(kth.np.random, "default_rng", lambda seed: _Drawn())
    values = np.arange(10_000.0)
    assert kth._between_sampled(values, 10) is None
    assert kth_largest(values, 10) == 9_990


class _Drawn:
    """A generator that draws the first numbers again and again."""

    def integers(self, n: int, size: int) -> np.ndarray:
        return np.arange(size) % 100


@pytest.mark.parametrize("n", [10, kth.MANY])
def test_not_a_number_is_found_wherever_it_is(n: int) -> None:
    values = np.arange(n, dtype=np.float32)
    values[n // 2] = np.nan
    assert np.isnan(kth_largest(values, 1))
    assert np.isnan(kth_largest(values, n))
