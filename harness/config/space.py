"""What a search varies: each entry of a search file's `space` proposes a value for one key of a run's configuration."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field, model_validator

from harness.config.schema import Section

Scalar = bool | int | float | str | None


class Proposer(Protocol):
    """What proposes: an Optuna trial, or anything with its three methods."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float: ...  # fmt: skip  # noqa: E501

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any: ...


class Space(Section, ABC):
    """Proposes the value of one key. Parts of a proposal are named after the key: `method.cyclic.n_cycles`."""

    needs_epochs: ClassVar[bool] = False
    """Whether proposals depend on the length of training in epochs."""

    kind: str
    when: dict[str, tuple[Scalar, ...]] = Field(default_factory=dict)
    """Only where earlier proposals have one of these values; elsewhere the base recipe's value stands."""

    @abstractmethod
    def propose(self, trial: Proposer, key: str, epochs: float) -> Any:
        """The value for `key` in a run of `epochs` epochs."""

    def grid(self) -> list[Any]:
        """Every value, for samplers that try all; raises ValueError where there is no such list."""
        raise ValueError(f"kind {self.kind} has no list of values to try one by one")


class FloatSpace(Space):
    kind: Literal["float"]
    low: float
    high: float
    log: bool = False
    """Uniform in the logarithm."""

    step: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> FloatSpace:
        _check_range(self.low, self.high, self.log)
        if self.log and self.step is not None:
            raise ValueError("log and step do not go together: leave one out")
        return self

    def propose(self, trial: Proposer, key: str, epochs: float) -> float:
        return trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)

    def grid(self) -> list[Any]:
        if self.step is None:
            raise ValueError("a grid needs a step for each kind float")
        return [
            min(self.low + i * self.step, self.high)
            for i in range(math.floor((self.high - self.low) / self.step + 1e-9) + 1)
        ]


class IntSpace(Space):
    kind: Literal["int"]
    low: int
    high: int
    log: bool = False
    step: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> IntSpace:
        _check_range(self.low, self.high, self.log)
        return self

    def propose(self, trial: Proposer, key: str, epochs: float) -> int:
        return trial.suggest_int(key, self.low, self.high, step=self.step, log=self.log)

    def grid(self) -> list[Any]:
        return list(range(self.low, self.high + 1, self.step))


class ChoiceSpace(Space):
    kind: Literal["choice"]
    of: tuple[Any, ...] = Field(min_length=1)
    """Values; a mapping or null is a value too: `of: [null, {ratio: 2}]`."""

    def propose(self, trial: Proposer, key: str, epochs: float) -> Any:
        named = {choice_name(value): value for value in self.of}
        return named[trial.suggest_categorical(key, list(named))]

    def grid(self) -> list[Any]:
        return [choice_name(value) for value in self.of]


def choice_name(value: Any) -> Scalar:
    """How a choice is called in a study, which knows scalars only."""
    return value if isinstance(value, bool | int | float | str) else json.dumps(value, sort_keys=True)


def _check_range(low: float, high: float, log: bool) -> None:
    if not low < high:
        raise ValueError(f"low must be below high, got {low:g} and {high:g}")
    if log and low <= 0:
        raise ValueError(f"a logarithmic range starts above 0, got low {low:g}")
