"""Every method does the same on every engine: to the last bit where a batch is cut into the same parts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.processes import run_ranks
from tests.distributed.steps import ARMS, COMPARISONS, HIDDEN, METHODS, N_UPDATES

ENGINES: dict[str, tuple[dict[str, Any], int]] = {
    "torch": ({}, 1),
    "torch, accumulation 2": ({"accumulation": 2}, 1),
    "ddp on 2": ({"workers": 2}, 2),
    "ddp on 4": ({"workers": 4}, 4),
    "deepspeed stage 0 on 2": ({"name": "deepspeed", "zero_stage": 0, "workers": 2}, 2),
    "deepspeed stage 1 on 2": ({"name": "deepspeed", "zero_stage": 1, "workers": 2}, 2),
    "deepspeed stage 2 on 2": ({"name": "deepspeed", "zero_stage": 2, "workers": 2}, 2),
    "bf16, ddp on 2": ({"precision": "bf16", "workers": 2}, 2),
    "bf16, the same again": ({"precision": "bf16", "workers": 2}, 2),
}
COMPILED = {
    "compiled": ({"compile": "on", "accumulation": 2}, 1),
    "compiled, ddp on 2": ({"compile": "on", "workers": 2}, 2),
    "compiled, deepspeed stage 1 on 2": ({"compile": "on", "name": "deepspeed", "zero_stage": 1, "workers": 2}, 2),
}
ENGINES |= COMPILED
BF16 = [name for name in ENGINES if name.startswith("bf16")]
ALL_METHODS = [name for name in ENGINES if name not in ("ddp on 4", *BF16, *COMPILED)]
HALVES = "torch, accumulation 2"  # one process, and the same two parts of each batch that two ranks have

Facts = dict[str, dict[str, Any]]
pytestmark = pytest.mark.slow


def train_on(comparison: str, engine: str, folder: Path) -> Facts:
    """What an engine did; its processes train all methods, one after another."""
    settings, world_size = ENGINES[engine]
    path = folder / f"{comparison} {engine}.json"
    outcomes = run_ranks(world_size, "tests.distributed.steps", comparison, json.dumps(settings), str(path))
    assert [code for code, _ in outcomes] == [0] * world_size, outcomes[0][1][-3000:]
    facts: Facts = json.loads(path.read_text())
    return facts


def train_on_all(comparison: str, engines: Iterable[str], folder: Path) -> dict[str, Facts]:
    """Two engines at a time: one process alone leaves a core idle."""
    names = list(engines)
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(lambda engine: train_on(comparison, engine, folder), names), strict=True))


@pytest.fixture(scope="module")
def methods(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Facts]:
    folder = tmp_path_factory.mktemp("methods")
    return train_on_all("methods", ALL_METHODS, folder)


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Facts]:
    folder = tmp_path_factory.mktemp("arms")
    return train_on_all("arms", (HALVES, "deepspeed stage 1 on 2"), folder)


@pytest.mark.parametrize("engine", [name for name in ALL_METHODS if name not in ("torch", HALVES)])
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_equal_one_with_halves(methods: dict[str, Facts], method: str, engine: str) -> None:
    expected, found = methods[HALVES][method], methods[engine][method]
    assert found["losses"] == expected["losses"]
    assert found["digests"] == expected["digests"]
    assert found["last_masks"] == expected["last_masks"]
    assert found["weights"] == expected["weights"]
    assert found["outcome"] == expected["outcome"]


@pytest.fixture(scope="module")
def in_bf16(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Facts]:
    """Each run compares masks and weights between its ranks, and would end there if they differed."""
    return train_on_all("bf16", BF16, tmp_path_factory.mktemp("bf16"))


@pytest.mark.parametrize("method", METHODS)
def test_bf16_twice_is_the_same_to_the_last_bit(in_bf16: dict[str, Facts], method: str) -> None:
    one, again = (in_bf16[engine][method] for engine in BF16)
    assert len(one["losses"]) == COMPARISONS["bf16"].steps
    assert one == again


@pytest.mark.parametrize("engine", ALL_METHODS)
def test_layers_of_dst_die_and_are_reset(methods: dict[str, Facts], engine: str) -> None:
    assert sum(methods[engine]["dst"]["outcome"]["resets"].values()) > 0


@pytest.mark.parametrize("method", METHODS)
def test_halves_equal_the_whole_batch(methods: dict[str, Facts], method: str) -> None:
    """But for rounding, as sums over a batch are taken in another order."""
    expected, found = methods["torch"][method], methods[HALVES][method]
    assert len(found["digests"]) == N_UPDATES.get(method, 4)
    assert found["digests"] == expected["digests"]
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-6, abs=1e-5)
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("engine", ALL_METHODS)
@pytest.mark.parametrize("method", [m for m in METHODS if m not in HIDDEN])
def test_nothing_lives_outside_the_mask_after_an_update(methods: dict[str, Facts], method: str, engine: str) -> None:
    assert methods[engine][method]["momentum_outside"] == 0
    assert methods[engine][method]["weights_outside"] == 0


@pytest.mark.parametrize(("method", "expected"), [("set", 2), ("rigl", 2), ("rigl_append", 2), ("east", 5)])
def test_topology_updates_change_the_masks(methods: dict[str, Facts], method: str, expected: int) -> None:
    """All but those that must not: the last step drops nothing, and EAST's cycle of ten steps has the same
    density at steps 4 and 6."""
    digests = methods["torch"][method]["digests"]
    assert sum(before != after for before, after in itertools.pairwise(digests)) == expected


@pytest.fixture(scope="module")
def quarters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Facts]:
    return train_on_all("quarters", ("torch", "ddp on 4"), tmp_path_factory.mktemp("quarters"))


@pytest.mark.parametrize("method", METHODS)
def test_quarters_equal_the_whole_batch(quarters: dict[str, Facts], method: str) -> None:
    expected, found = quarters["torch"][method], quarters["ddp on 4"][method]
    assert found["digests"] == expected["digests"]
    assert found["last_masks"] == expected["last_masks"]
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-6, abs=1e-5)
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-4, abs=1e-6)


@pytest.fixture(scope="module")
def in_programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Facts]:
    return train_on_all("compiled", (HALVES, *COMPILED), tmp_path_factory.mktemp("compiled"))


@pytest.mark.parametrize("engine", COMPILED)
@pytest.mark.parametrize("method", COMPARISONS["compiled"].methods)
def test_compiled_is_the_same_on_every_engine(in_programs: dict[str, Facts], method: str, engine: str) -> None:
    assert in_programs[engine][method] == in_programs[HALVES][method]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Facts]:
    folder = tmp_path_factory.mktemp("ranks")
    return train_on_all("ranks", ("torch", "ddp on 2", "ddp on 4"), folder)


@pytest.mark.parametrize("engine", ["ddp on 2", "ddp on 4"])
@pytest.mark.parametrize("method", COMPARISONS["ranks"].methods)
def test_batch_norm_over_all_ranks_is_that_of_one(ranks: dict[str, Facts], method: str, engine: str) -> None:
    expected, found = ranks["torch"][method], ranks[engine][method]
    assert found["digests"] == expected["digests"]
    assert found["last_masks"] == expected["last_masks"]
    assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    # rounding moves a few activations over the kink of a ReLU
    assert found["norms"] == pytest.approx(expected["norms"], rel=5e-3, abs=1e-6)


@pytest.mark.parametrize("arm", ARMS)
def test_200_steps_of_every_arm_of_east(arms: dict[str, Facts], arm: str) -> None:
    """Two processes under ZeRO-1 and one of torch alone, on a network with batch norm that learns its task."""
    expected, found = arms[HALVES][arm], arms["deepspeed stage 1 on 2"][arm]
    assert found["losses"] == expected["losses"]
    assert found["digests"] == expected["digests"]
    assert found["weights"] == expected["weights"]
    assert found["momentum_outside"] == found["weights_outside"] == 0
    cycles = "cyclic" in arm or arm == "east"
    assert len(found["digests"]) == (12 + 7 if cycles else 10)  # 12 moves in the cycles of 60 steps, then every 20
    assert sum(a != b for a, b in itertools.pairwise(found["digests"])) >= len(found["digests"]) - 3
    assert found["losses"][0] > 2.3
    assert max(found["losses"][-5:]) < 0.2
