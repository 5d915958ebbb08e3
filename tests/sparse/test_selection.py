from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.sparse.noise import key_of, keyed_generator
from harness.sparse.selection import _on_device, random_mask, random_places, top_k_mask


def test_ties_go_to_the_lower_index() -> None:
    scores = torch.tensor([3.0, 1.0, 3.0, 3.0, 0.0])
    assert top_k_mask(scores, k=2).tolist() == [True, False, True, False, False]


def test_only_candidates_are_chosen() -> None:
    scores = torch.tensor([[9.0, 1.0], [8.0, 1.0]])
    among = torch.tensor([[False, True], [True, True]])
    assert top_k_mask(scores, 2, among).tolist() == [[False, True], [True, False]]


def test_exact_zeros_fill_up_in_order_of_index() -> None:
    assert top_k_mask(torch.tensor([0.0, 0.0, 5.0, 0.0]), 3).tolist() == [True, True, True, False]


@pytest.mark.parametrize("k", [-1, 4])
def test_impossible_counts_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"cannot keep {k} of 3"):
        top_k_mask(torch.ones(3), k)


def test_a_score_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        top_k_mask(torch.tensor([1.0, float("nan")]), 1)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, -1.0, 0.5]), min_size=1, max_size=60), st.data())
def test_equals_a_stable_sort(values: list[float], data: st.DataObject) -> None:
    among = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    k = data.draw(st.integers(0, sum(among)))
    candidates = [i for i, allowed in enumerate(among) if allowed]
    expected = sorted(sorted(candidates, key=lambda i: -values[i])[:k])  # Python's sort is stable
    scores, allowed = torch.tensor(values), torch.tensor(among)
    assert top_k_mask(scores, k, allowed).nonzero().squeeze(1).tolist() == expected
    # what a GPU runs, on the CPU
    assert _on_device(scores, k, allowed).nonzero().squeeze(1).tolist() == expected
    assert _on_device(scores, k, None).equal(top_k_mask(scores, k))


def test_infinite_scores_are_scores() -> None:
    scores = torch.tensor([float("-inf"), 2.0, float("-inf"), float("inf"), float("-inf")])
    among = torch.tensor([True, True, False, False, True])
    for choose in (top_k_mask, _on_device):
        assert choose(scores, 2, among).tolist() == [True, True, False, False, False]
        assert choose(scores, 1, None).tolist() == [False, False, False, True, False]


def test_on_a_gpu_a_score_that_is_not_a_number_leaves_nothing_chosen() -> None:
    scores = torch.tensor([1.0, float("nan"), 2.0])
    assert not bool(_on_device(scores, 2, None).any())
    assert _on_device(scores, 1, torch.tensor([True, False, True])).tolist() == [False, False, True]


def test_random_masks_are_exact_and_keyed() -> None:
    first = random_mask(torch.Size((7, 5)), 11, keyed_generator(1, "mask", "conv1"))
    again = random_mask(torch.Size((7, 5)), 11, keyed_generator(1, "mask", "conv1"))
    other = random_mask(torch.Size((7, 5)), 11, keyed_generator(1, "mask", "conv2"))
    assert int(first.sum()) == 11
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@given(st.lists(st.booleans(), min_size=1, max_size=200), st.data())
def test_random_places_are_candidates_and_exact(among: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, sum(among)))
    places = random_places(torch.tensor(among), k, keyed_generator(0, k)).tolist()
    assert len(set(places)) == len(places) == k
    assert all(among[place] for place in places)
    with pytest.raises(ValueError, match=r"cannot draw"):
        random_places(torch.tensor(among), sum(among) + 1, keyed_generator(0))


def test_random_places_are_uniform() -> None:
    among = torch.arange(12) % 3 > 0  # eight candidates
    drawn = torch.zeros(12)
    for seed in range(4000):
        drawn[random_places(among, 3, keyed_generator(seed))] += 1
    assert bool((drawn[~among] == 0).all())
    expected, sd = 4000 * 3 / 8, (4000 * 3 / 8 * 5 / 8) ** 0.5
    assert bool(((drawn[among] - expected).abs() < 4 * sd).all())


def test_keys_do_not_run_together() -> None:
    assert key_of("a", "bc") != key_of("ab", "c")
    assert key_of(1, 23) != key_of(12, 3)
