from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.board.ranking import best_of, critical_difference, gaps, profiles, standings
from harness.board.rows import Row, rows_from_results, tables_of
from tests.board.made import results


def rows(*groups: list[dict[str, Any]]) -> list[Row]:
    return rows_from_results([r for group in groups for r in group])


def test_rows_whose_intervals_overlap_tie() -> None:
    # half-widths, t(.975, 2) s / sqrt(3): 2.484 s; s = .01, so .0248 around .90, .87 and .60
    near = {0: -0.01, 1: 0.0, 2: 0.01}
    table = rows(
        results("east", 0.01, {s: 0.90 + d for s, d in near.items()}),
        results("rigl", 0.01, {s: 0.87 + d for s, d in near.items()}),
        results("set", 0.01, {s: 0.60 + d for s, d in near.items()}),
        results("static", 0.01, {0: 0.99}),
        results("rigl", 0.02, {s: 0.99 + d for s, d in near.items()}),
    )
    found = standings(table)
    assert {r.method: found[r.fingerprint].rank for r in table if r.fingerprint in found} == {
        "east": 1, "rigl": 1, "set": 3,
    }  # fmt: skip
    assert "static0.01" not in found, "one seed has no interval and no rank"
    assert "rigl0.02" not in found, "alone at its density"


def test_best_is_said_only_where_the_test_says_so() -> None:
    east = results("east", 0.01, {0: 0.90, 1: 0.95, 2: 0.92, 3: 0.97})
    behind = results("rigl", 0.01, {0: 0.80, 1: 0.86, 2: 0.82, 3: 0.86})  # .10, .09, .10, .11: always
    wild = results("set", 0.01, {0: 0.90, 1: 0.70, 2: 0.93, 3: 0.80})  # now and then
    one = results("static", 0.01, {0: 0.2})  # far behind, but once
    found = best_of(rows(east, behind))
    assert found is not None
    assert found.method == "east"
    assert best_of(rows(east, wild)) is None
    assert best_of(rows(east, behind, wild)) is None
    assert best_of(rows(east, behind, one)) is None
    assert best_of(rows(east)) is None
    assert [s.best for s in standings(rows(east, behind)).values()] == [True, False]


def test_gaps_are_paired_and_corrected_within_the_table() -> None:
    table = rows(
        results("dense", 1.0, {0: 0.95, 1: 0.96, 2: 0.97}),
        results("rigl", 0.01, {0: 0.90, 1: 0.92, 2: 0.91}),
        results("rigl", 0.02, {0: 0.93, 1: 0.94, 2: 0.945}),
        results("east", 0.01, {0: 0.92, 1: 0.93, 2: 0.95}),
    )
    to_dense, to_rigl = gaps(table, "dense"), gaps(table, "rigl")
    assert set(to_dense) == {"rigl0.01", "rigl0.02", "east0.01"}
    assert set(to_rigl) == {"east0.01"}
    assert to_rigl["east0.01"].mean == pytest.approx(0.07 / 3)
    assert to_rigl["east0.01"].p_holm == to_rigl["east0.01"].p
    lowest = min(d.p or 1 for d in to_dense.values())
    assert min(d.p_holm or 1 for d in to_dense.values()) == pytest.approx(min(1, 3 * lowest))


def test_of_two_rows_of_a_method_the_one_with_the_same_seeds_is_compared_with() -> None:
    other = results("rigl", 0.01, {10: 0.1, 11: 0.1, 12: 0.1}, fingerprint="another form")
    table = rows(results("east", 0.01, {0: 0.9, 1: 0.9}), results("rigl", 0.01, {0: 0.8, 1: 0.8}), other)
    assert gaps(table, "rigl")["east0.01"].mean == pytest.approx(0.1)


def test_rows_of_other_settings_are_not_compared() -> None:
    short = results("rigl", 0.01, {0: 0.5, 1: 0.5}, setting="two", fingerprint="short")
    other = results("rigl", 0.01, {0: 0.5, 1: 0.5}, n_exempt_weights=640, fingerprint="exempt")
    table = rows(results("east", 0.01, {0: 0.9, 1: 0.8}), short, other)
    assert len(tables_of(table)) == 3
    assert all(gaps(of, "rigl") == {} and standings(of) == {} for of in tables_of(table))


def test_a_row_that_never_began_stands_with_its_setting() -> None:
    lost = results("set", 0.01, {0: None})  # type: ignore[dict-item]
    (table,) = tables_of(rows(results("east", 0.01, {0: 0.9}), lost))
    assert [r.method for r in table] == ["east", "set"]


def cells(ranks: dict[str, list[int]]) -> list[Row]:
    """Rows whose accuracies rank so, one data set a cell."""
    return rows(*(
        results(method, 0.01, {0: 1 - 0.1 * rank}, data=f"data {i}", setting=f"s{i}")
        for method, of in ranks.items() for i, rank in enumerate(of)
    ))  # fmt: skip


def test_the_critical_difference_is_demsars() -> None:
    """Demsar 2006, section 3.2.2: four methods on 14 data sets are told apart by mean ranks 1.25 apart."""
    found = critical_difference(cells({"a": [1] * 14, "b": [2] * 14, "c": [3] * 14, "d": [4] * 14}))
    assert found is not None
    assert found.distance == pytest.approx(1.25, abs=0.005)
    assert (found.methods, found.mean_ranks) == (("a", "b", "c", "d"), (1, 2, 3, 4))
    assert found.p < 1e-6
    assert found.groups == [(0, 1), (1, 2), (2, 3)]


def test_methods_that_most_cells_miss_are_left_out() -> None:
    found = critical_difference(cells({"a": [1, 1, 1, 2], "b": [2, 2, 2, 1], "c": [3, 3, 3, 3], "d": [4]}))
    assert found is not None
    assert (found.left_out, found.n_cells) == (("d",), 4)
    assert found.mean_ranks == (1.25, 1.75, 3)
    assert critical_difference(cells({"a": [1, 1, 1], "b": [2, 2, 2]})) is None
    assert critical_difference(cells({"a": [1], "b": [2], "c": [3]})) is None


def test_methods_that_are_all_alike() -> None:
    found = critical_difference(cells({"a": [1, 1, 1], "b": [1, 1, 1], "c": [1, 1, 1]}))
    assert found is not None
    assert (found.p, found.mean_ranks, found.groups) == (1.0, (2, 2, 2), [(0, 2)])


def test_profiles_by_hand() -> None:
    """Ranks are 10 points apart here; d is there once, and elsewhere out of reach."""
    found = profiles(cells({"a": [1, 2], "b": [2, 1], "d": [4]}), [0, 10, 30])
    assert found == {"a": [0.5, 1, 1], "b": [0.5, 1, 1], "d": [0, 0, 0.5]}


@given(st.lists(st.lists(st.floats(0, 1), min_size=2, max_size=5), min_size=2, max_size=5))
def test_at_most_one_is_best_and_somebody_ranks_first(accuracies: list[list[float]]) -> None:
    table = rows(*(results(f"m{i}", 0.01, dict(enumerate(of))) for i, of in enumerate(accuracies)))
    found = standings(table)
    assert sum(s.best for s in found.values()) <= 1
    assert not found or min(s.rank for s in found.values()) == 1
    best = [f for f, s in found.items() if s.best]
    assert all(r.mean == max(o.mean or 0 for o in table) for r in table if r.fingerprint in best)
