from __future__ import annotations

import pytest

from tests.distributed.processes import run_ranks

pytestmark = pytest.mark.slow


def outputs(fault: str) -> list[str]:
    outcomes = run_ranks(["-m", "tests.distributed.planted", fault], 2)
    assert [code for code, _ in outcomes] == [0, 0], outcomes[0][1][-2000:]
    return [output for _, output in outcomes]


def test_a_mask_changed_on_one_rank_is_named_on_both() -> None:
    for output in outputs("mask"):
        assert "caught: step 8, layer classifier: the mask of rank 1 differs from that of rank 0" in output


def test_an_evaluation_that_counts_twice_is_stopped_and_uneven_shards_count_once() -> None:
    for output in outputs("evaluation"):
        counted = float(output.split("counted ")[1].split()[0])
        assert counted == pytest.approx(round(counted), abs=1e-3)
        assert "caught: evaluation counted 598 samples of the 299 in test" in output
