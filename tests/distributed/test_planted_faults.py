"""A fault planted in a run of two ranks is caught by the run itself, on both, with rank, step and layer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.processes import run_ranks

pytestmark = pytest.mark.slow

FAULTS = {
    "a mask changed on one rank": "step 10, layer fc2: the mask of rank 1 differs from that of rank 0",
    "a method that writes past its budget": "rank 1: step 10, layer fc2: ",
    "a weight that comes back": "rank 0: step 10, layer fc1: ",
    "a gradient that is not averaged": "step 10, parameter classifier.weight: rank 1 holds other values than rank 0",
    "an evaluation that counts a sample twice": "evaluation counted 598 samples of the 299 in validation",
    "a seed that differs by rank": "rank 1 trains another run than rank 0: seed 1, not 0",
    "a configuration that differs by rank": "rank 1 trains another run than rank 0: configuration",
    "another version on one rank": "rank 1 has another software than rank 0: torch 2.14, not torch 2.15",
    "another kind of GPU on one rank": "rank 1 has another GPU than rank 0: H200, not H100",
    "masks that cannot be chosen": (
        "snip chose 0 weights before the first step",
        "rank 0 could not choose the masks before the first step: its message says why",
    ),
}


# ZeRO gathers one copy of every weight after each step, so a gradient of one rank alone reaches all, and it sets masks
# together on all ranks or not at all
@pytest.mark.parametrize(
    ("fault", "engine"),
    [(f, "torch") for f in FAULTS]
    + [(f, "deepspeed") for f in FAULTS if "changed on one rank" not in f and "averaged" not in f],
)
def test_caught(fault: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    said = FAULTS[fault]
    for rank, (_, output) in enumerate(run_ranks(2, "tests.distributed.planted", fault, engine)):
        assert f"caught: {said if isinstance(said, str) else said[rank]}" in output, output[-3000:]


def test_without_a_fault_nothing_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for _, output in run_ranks(2, "tests.distributed.planted", "none", "torch"):
        assert "reached done" in output, output[-3000:]
