"""Every method gives the same masks and losses on every engine, with the same global batch."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.processes import run_ranks
from tests.distributed.steps import METHODS

ENGINES: dict[str, tuple[dict[str, Any], int]] = {
    "torch": ({}, 1),
    "torch, accumulation 2": ({"accumulation": 2}, 1),
    "ddp on 2": ({"workers": 2}, 2),
    "deepspeed stage 0 on 2": ({"name": "deepspeed", "zero_stage": 0, "workers": 2}, 2),
    "deepspeed stage 1 on 2": ({"name": "deepspeed", "zero_stage": 1, "workers": 2}, 2),
    "deepspeed stage 2 on 2": ({"name": "deepspeed", "zero_stage": 2, "workers": 2}, 2),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each engine did; the processes of one engine train all methods, one after another."""
    folder = tmp_path_factory.mktemp("engines")
    out = {}
    for number, (name, (engine, world_size)) in enumerate(ENGINES.items()):
        path = folder / f"{number}.json"
        outcomes = run_ranks(["-m", "tests.distributed.steps", json.dumps(engine), str(path)], world_size)
        assert [code for code, _ in outcomes] == [0] * world_size, outcomes[0][1][-3000:]
        out[name] = json.loads(Path(path).read_text())
    return out


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "torch"])
@pytest.mark.parametrize("method", METHODS)
def test_equal_masks_and_losses(facts: dict[str, dict[str, Any]], method: str, engine: str) -> None:
    expected, found = facts["torch"][method], facts[engine][method]
    n_updates = {"dense": 0, "static": 0, "east": 7}.get(method, 4)
    assert len(found["digests"]) == n_updates
    assert found["digests"] == expected["digests"]
    assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", [m for m in METHODS if m != "dense"])
def test_nothing_lives_outside_the_mask_after_an_update(
    facts: dict[str, dict[str, Any]], method: str, engine: str
) -> None:
    assert facts[engine][method]["momentum_outside"] == 0
    assert facts[engine][method]["weights_outside"] == 0


@pytest.mark.parametrize(("method", "expected"), [("set", 2), ("rigl", 2), ("rigl_append", 2), ("east", 5)])
def test_topology_updates_change_the_masks(facts: dict[str, dict[str, Any]], method: str, expected: int) -> None:
    """All but those that must not: the last step drops nothing, and EAST's cycle of ten steps has the same
    density at steps 4 and 6."""
    digests = facts["torch"][method]["digests"]
    assert sum(before != after for before, after in itertools.pairwise(digests)) == expected
