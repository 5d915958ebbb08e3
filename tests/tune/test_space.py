"""Impossible combinations cannot be proposed: whatever is drawn, the parts of EAST accept it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from east.cyclic import CyclicDensity, CyclicOptions
from east.dyrelu import DyReLUOptions, Phase
from east.spaces import CycleSpace, PhaseSpace
from harness.config import build_config
from harness.config.space import ChoiceSpace, FloatSpace, IntSpace
from harness.sparse.schedules import Clock
from harness.tune.search import load_search, shipped_searches


class Drawn:
    """Draws uniformly, ends of ranges more often than not; remembers."""

    def __init__(self, seed: int) -> None:
        self.random, self.values = random.Random(seed), {}  # type: ignore[var-annotated]

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> Any:
        return self._note(name, self.random.choice([low, high, self.random.uniform(low, high)]))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> Any:
        return self._note(name, self.random.randint(low, high))

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return self._note(name, self.random.choice(choices))

    def _note(self, name: str, value: Any) -> Any:
        assert name not in self.values
        self.values[name] = value
        return value


seeds, epochs, steps = st.integers(0, 10**6), st.integers(4, 300), st.integers(10, 500)


@given(seeds, epochs, steps)
def test_cycles_end_inside_training_and_have_parameters_only_where_there_are_some(
    seed: int, n_epochs: int, per_epoch: int
) -> None:
    drawn = Drawn(seed)
    found = CycleSpace(kind="cycles").propose(drawn, "method.cyclic", float(n_epochs))
    n_cycles = drawn.values["method.cyclic.n_cycles"]
    if n_cycles == 0:
        assert found is None
        assert set(drawn.values) == {"method.cyclic.n_cycles"}
        return
    assert ("method.cyclic.growth" in drawn.values) == (n_cycles > 1)
    clock = Clock(total_steps=n_epochs * per_epoch, steps_per_epoch=per_epoch)
    cycles = CyclicDensity.of(CyclicOptions(**found), 0.001, clock)
    assert len(cycles.lengths) == n_cycles
    assert cycles.end / clock.total_steps == pytest.approx(drawn.values["method.cyclic.share"], abs=0.05)


@given(seeds, epochs, steps, st.sampled_from(["epoch", "step"]))
def test_the_phase_out_ends_after_it_starts_and_inside_training(
    seed: int, n_epochs: int, per_epoch: int, changes: str
) -> None:
    drawn = Drawn(seed)
    found = PhaseSpace(kind="phase", present=(True, False)).propose(drawn, "d", float(n_epochs))
    if not drawn.values["d.present"]:
        assert found is None
        return
    clock = Clock(total_steps=n_epochs * per_epoch, steps_per_epoch=per_epoch)
    phase = Phase.of(DyReLUOptions(**found, changes=changes), clock)  # type: ignore[arg-type]
    assert phase.beta(clock.total_steps - 1) == 0
    freeze = found["freeze_epoch"]
    assert freeze is None or phase.start <= freeze <= phase.end
    assert ("d.freeze_at" in drawn.values) == (freeze is not None)


@pytest.mark.parametrize("name", shipped_searches())
def test_every_shipped_search_proposes_runs_that_can_be_built(name: str) -> None:
    for search in load_search(name):
        for seed in range(50):
            config = search.configure(Drawn(seed))
            assert config.evaluation.test is False
            assert build_config(config.model_dump(mode="json"), "again") == config


def test_a_choice_may_be_a_mapping_or_nothing() -> None:
    space = ChoiceSpace(kind="choice", of=(None, {"ratio": 2}, 3))
    drawn = [space.propose(Drawn(seed), "method.sharing", 1.0) for seed in range(30)]
    assert {str(value) for value in drawn} == {"None", "{'ratio': 2}", "3"}
    assert space.grid() == ["null", '{"ratio": 2}', 3]


def test_grids() -> None:
    assert FloatSpace(kind="float", low=0.1, high=0.4, step=0.1).grid() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert IntSpace(kind="int", low=1, high=6, step=2).grid() == [1, 3, 5]
    with pytest.raises(ValueError, match="a grid needs a step"):
        FloatSpace(kind="float", low=0.1, high=0.4).grid()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"low": 1.0, "high": 1.0}, "low must be below high, got 1 and 1"),
        ({"low": 0.0, "high": 1.0, "log": True}, "a logarithmic range starts above 0"),
        ({"low": 0.1, "high": 1.0, "log": True, "step": 0.1}, "log and step do not go together"),
    ],
)
def test_ranges_that_are_none(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        FloatSpace(kind="float", **options)


@pytest.mark.parametrize("options", [{"share": (0.1, 1.2)}, {"n_cycles": (3, 1)}, {"multiplier": (0.5, 2)}])
def test_cycles_that_could_not_end_inside_training_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"needs .* <= low <= high <="):
        CycleSpace(kind="cycles", **options)
