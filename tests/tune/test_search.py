"""What search files may say, and what is said to those that may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import HarnessError
from harness.tune.search import Lowest, load_search, with_budget
from tests.tune.studies import SPACE, small_search, write_search


def test_a_search_proposes_around_its_base_on_validation_data_alone(tmp_path: Path) -> None:
    config = small_search(tmp_path).configure(Lowest())
    assert (config.optimizer.lr, config.method.model_dump()["drop_fraction"]) == (0.01, 0.1)
    assert config.model.name == "lenet_300_100"
    assert config.evaluation.test is False


def test_conditions(tmp_path: Path) -> None:
    space = {
        "method.style": {"kind": "choice", "of": ["append", "replace"]},
        "method.drop_fraction": {"kind": "float", "low": 0.1, "high": 0.6, "when": {"method.style": ["replace"]}},
    }
    search = small_search(tmp_path, space=space)

    class Replace(Lowest):
        def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
            return "replace"

    assert search.configure(Lowest()).method.model_dump()["drop_fraction"] == 0.3  # RigL's own
    assert search.configure(Replace()).method.model_dump()["drop_fraction"] == 0.1


def test_methods_on_the_same_terms(tmp_path: Path) -> None:
    arms = {
        "rigl": {"set": {"method": {"name": "rigl", "interval": 7}}},
        "static": {
            "set": {"method": {"name": "static"}},
            "space": {"method.distribution": {"kind": "choice", "of": ["erk", "uniform"]}},
        },
    }
    path = str(write_search(tmp_path, space={"optimizer.lr": SPACE["optimizer.lr"]}, methods=arms))
    rigl, static = load_search(path)
    assert (rigl.name, static.name) == ("small-rigl", "small-static")
    assert list(rigl.spaces) == ["optimizer.lr"]
    assert list(static.spaces) == ["optimizer.lr", "method.distribution"]
    assert rigl.base.method.density == static.base.method.density == 0.1
    assert [s.name for s in load_search(path, methods=["static"], study="mine")] == ["mine-static"]
    with pytest.raises(HarnessError, match="no method \\['stattic'\\]; did you mean 'static'"):
        load_search(path, methods=["stattic"])


def test_the_end_is_not_part_of_what_a_search_is(tmp_path: Path) -> None:
    search = small_search(tmp_path)
    assert with_budget(search, 3, 0.5).definition() == search.definition()
    assert with_budget(search, 3, 0.5).file.budget.model_dump() == {
        "trials": 3, "hours": 0.5, "gpu_hours": None, "train_flops": None,
    }  # fmt: skip
    assert small_search(tmp_path, sampler={"seed": 1}).definition() != search.definition()


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"objectives": [{"metric": "test_accuracy_last"}]}, "objectives.0.metric"),
        ({"sapce": {}}, "sapce is not known; did you mean 'space'"),
        ({"space": {}}, "its space is empty"),
        ({"space": {"optimizer.lr": {"kind": "flaot", "low": 1}}}, "kind of space 'flaot'; did you mean 'float'"),
        ({"space": {"optimizer.lr": {"kind": "float", "lwo": 1, "high": 2}}}, "space.optimizer.lr.lwo is not known"),
        ({"space": {"optimizer.rl": {"kind": "float", "low": 1, "high": 2}}}, "optimizer.rl is not known"),
        (
            {"space": {"optimizer.lr": {**SPACE["optimizer.lr"], "when": {"method.style": ["append"]}}}},
            "space.optimizer.lr.when: 'method.style' is not varied before it",
        ),
        ({"start": [{"optimizer.lr": 5.0}]}, "start 0: the space does not hold {'optimizer.lr': 5.0}"),
        ({"budget": {}}, "a search needs an end"),
        ({"sampler": {"name": "grid"}}, "space.optimizer.lr: a grid needs a step"),
        (
            {"objectives": [{"metric": "val_accuracy_last"}, {"metric": "density"}], "pruner": {"name": "median"}},
            "pruner median needs one objective, found 2",
        ),
        (
            {"objectives": [{"metric": "val_accuracy_last"}, {"metric": "density"}], "sampler": {"name": "cmaes"}},
            "sampler cmaes needs one objective",
        ),
        ({"base": "demo"}, "base 'demo' is a suite"),
        ({"set": {"schedule": {"epochs": None, "steps": 100}}, "space": {"method.cyclic": {"kind": "cycles"}}},
         "needs the length of training in epochs"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, entries: dict[str, Any], said: str) -> None:
    with pytest.raises(HarnessError) as error:
        small_search(tmp_path, **entries)
    assert said in str(error.value)


def test_a_search_that_is_not_there() -> None:
    with pytest.raises(HarnessError, match=r"unknown search 'searches/east_cycle'; did you mean 'east_cycles'"):
        load_search("searches/east_cycle")


def test_no_methods_to_choose_from(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="--methods needs a search with a methods section"):
        load_search(str(write_search(tmp_path)), methods=["rigl"])
