"""Search files: a base recipe, what is varied, what is wanted, and how much it may cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from harness.config import RunConfig, Section, build_config, identity_of, load_recipe, registry
from harness.config.recipes import explain, find_file, is_file, merge, nested
from harness.config.space import Proposer, Scalar, Space
from harness.errors import HarnessError

SHIPPED = Path(__file__).parent.parent / "searches"
UP = ("val_accuracy_last", "val_accuracy_best")
Metric = Literal[
    "val_accuracy_last", "val_accuracy_best", "train_loss_last", "density", "train_flops", "inference_macs",
    "train_seconds",
]  # fmt: skip


class Objective(Section):
    metric: Metric = "val_accuracy_last"
    """A number of a run's result. The test set is none of them: no search sees it."""

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        return "maximize" if self.metric in UP else "minimize"


class SamplerOptions(Section):
    name: Literal["tpe", "cmaes", "nsga2", "gp", "random", "grid", "qmc"] = "tpe"
    """'tpe' is multivariate and counts running trials as bad ones (constant liar)."""

    seed: int = 0
    startup: int = Field(10, ge=1)
    """Random trials before the sampler learns; NSGA-II: size of its population."""


class PrunerOptions(Section):
    """Stops trials that fall behind, by the validation accuracy of their first seed. Steps are optimizer steps."""

    name: Literal["none", "median", "halving", "hyperband"] = "none"
    first_step: int = Field(1, ge=1)
    """No trial is stopped before; the first rung of 'halving' and 'hyperband'."""

    reduction: int = Field(3, ge=2)
    """'halving', 'hyperband': one in this many trials goes on from rung to rung."""

    startup: int = Field(5, ge=0)
    """'median': trials that run to their end before any is stopped."""


class Budget(Section):
    """Whatever is reached first ends the search."""

    trials: int | None = Field(None, ge=1)
    hours: float | None = Field(None, gt=0)
    """Wall time, over all times the command was given."""

    gpu_hours: float | None = Field(None, gt=0)
    train_flops: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _some_end(self) -> Budget:
        if all(value is None for value in (self.trials, self.hours, self.gpu_hours, self.train_flops)):
            raise ValueError("a search needs an end: give trials, hours, gpu_hours or train_flops")
        return self


class Confirm(Section):
    """The best trials again with seeds the search has not used, before one is called best."""

    top: int = Field(3, ge=0)
    """How many. With 0 none is run again, and the best of the search stands as it is."""

    seeds: int = Field(3, ge=1)


class Arm(Section):
    """A method of a search over several: what it changes in the base recipe, and what is varied for it alone."""

    set: dict[str, Any] = Field(default_factory=dict)
    space: dict[str, dict[str, Any]] = Field(default_factory=dict)


class SearchFile(Section):
    description: str = ""
    base: str
    """A recipe by name, or by a path beside this file."""

    set: dict[str, Any] = Field(default_factory=dict)
    """Sections over the base recipe's."""

    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """A trial is a run with each; objectives are means over them."""

    objectives: tuple[Objective, ...] = Field((Objective(),), min_length=1, max_length=3)
    space: dict[str, dict[str, Any]] = Field(default_factory=dict)
    methods: dict[str, Arm] = Field(default_factory=dict)
    """Searches for several methods on the same terms, each a study of its own."""

    start: tuple[dict[str, Scalar], ...] = ()
    """Proposals tried first, e.g. a published setting, by the names of parameters."""

    sampler: SamplerOptions = SamplerOptions()
    pruner: PrunerOptions = PrunerOptions()
    budget: Budget = Budget(trials=40)
    confirm: Confirm = Confirm()

    @model_validator(mode="after")
    def _goes_together(self) -> SearchFile:
        if len(self.objectives) > 1 and self.pruner.name != "none":
            raise ValueError(f"pruner {self.pruner.name} needs one objective, found {len(self.objectives)}")
        if len(self.objectives) > 1 and self.sampler.name == "cmaes":
            raise ValueError(
                f"sampler cmaes needs one objective, found {len(self.objectives)}: nsga2 or tpe take several"
            )
        if len({o.metric for o in self.objectives}) < len(self.objectives):
            raise ValueError("each objective is another metric")
        return self


@dataclass(frozen=True, slots=True)
class Search:
    """One study: a base configuration, checked, and what is varied around it."""

    name: str
    file: SearchFile
    plain: dict[str, Any]
    spaces: dict[str, Space]

    @property
    def base(self) -> RunConfig:
        return build_config(self.plain, self.name)

    def configure(self, trial: Proposer) -> RunConfig:
        """The run a trial proposes, on validation data alone."""
        plain, chosen = self.plain, Noted(trial)
        for key, space in self.spaces.items():
            if all(name in chosen.values and chosen.values[name] in values for name, values in space.when.items()):
                epochs = plain.get("schedule", {}).get("epochs") or 0.0
                plain = merge(plain, nested(key, space.propose(chosen, key, epochs)))
        return build_config(merge(plain, {"evaluation": {"test": False}}), self.name)

    def definition(self) -> dict[str, Any]:
        """What makes it this search; how long it may go on is not part of it."""
        file = self.file.model_dump(mode="json", include={"seeds", "objectives", "sampler", "pruner"})
        spaces = {key: space.model_dump(mode="json") for key, space in self.spaces.items()}
        return {"base": identity_of(self.base), "space": spaces, **file}


class Noted:
    """A proposer that remembers, for what depends on earlier proposals."""

    def __init__(self, trial: Proposer) -> None:
        self.trial = trial
        self.values: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:  # fmt: skip  # noqa: E501
        return self._note(name, self.trial.suggest_float(name, low, high, step=step, log=log))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return self._note(name, self.trial.suggest_int(name, low, high, step=step, log=log))

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return self._note(name, self.trial.suggest_categorical(name, choices))

    def _note(self, name: str, value: Any) -> Any:
        self.values[name] = value
        return value


def shipped_searches() -> dict[str, Path]:
    return {p.stem: p for p in sorted(SHIPPED.glob("*.yaml"))}


def with_budget(search: Search, trials: int | None, hours: float | None) -> Search:
    """The same search with another end."""
    given = {k: v for k, v in (("trials", trials), ("hours", hours)) if v is not None}
    file = search.file.model_copy(update={"budget": search.file.budget.model_copy(update=given)})
    return replace(search, file=file)


def load_search(
    name: str, patch: dict[str, Any] | None = None, methods: list[str] | None = None, study: str | None = None
) -> list[Search]:
    """The studies of a shipped search by name, or of a file by its path: one, or one per method.

    study: another name for what it makes.
    """
    path = find_file(name, shipped_searches(), "search", ("searches/",))
    try:
        content = yaml.safe_load(path.read_text())
        file = SearchFile(**content)
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise HarnessError(f"{path}: not a search file: {error}") from None
    except ValidationError as error:
        raise HarnessError(explain(error, path.name, SearchFile)) from None
    beside = path.parent / file.base
    recipe = load_recipe(str(beside) if is_file(beside) else file.base)
    if recipe.axes:
        raise HarnessError(f"{path.name}: base '{file.base}' is a suite: a search starts from a recipe of one run")
    plain = merge(recipe.plain, file.set)
    if not file.methods:
        if methods:
            raise HarnessError(
                f"{path.name} has no methods to choose from: --methods needs a search with a methods section"
            )
        return [_search(study or path.stem, file, merge(plain, patch or {}), file.space)]
    unknown = [m for m in methods or [] if m not in file.methods]
    if unknown:
        raise HarnessError(f"{path.name}: no method {unknown}; {registry.nearest(unknown[0], list(file.methods))}")
    return [
        _search(
            f"{study or path.stem}-{label}",
            file,
            merge(merge(plain, arm.set), patch or {}),
            {**file.space, **arm.space},
        )
        for label, arm in file.methods.items()
        if not methods or label in methods
    ]


def _search(name: str, file: SearchFile, plain: dict[str, Any], space: dict[str, dict[str, Any]]) -> Search:
    """Check everything that can be checked before a trial runs."""
    if not space:
        raise HarnessError(f"{name}: nothing to vary: its space is empty")
    spaces: dict[str, Space] = {}
    for key, entry in space.items():
        for name_of in entry.get("when", {}):
            if not any(name_of == earlier or name_of.startswith(f"{earlier}.") for earlier in spaces):
                raise HarnessError(
                    f"{name}: space.{key}.when: '{name_of}' is not varied before it; found {list(spaces)}"
                )
        kind = registry.load("kind of space", str(entry.get("kind")), registry.SPACES)
        try:
            spaces[key] = kind(**entry)
        except ValidationError as error:
            raise HarnessError(explain(error, name, kind, ("space", key))) from None
    search = Search(name, file, plain, spaces)
    for key, parsed in spaces.items():
        if parsed.needs_epochs and not plain.get("schedule", {}).get("epochs"):
            raise HarnessError(f"{name}: space.{key} needs the length of training in epochs: set schedule.epochs")
    if file.sampler.name == "grid":
        grid_of(search)
    search.base  # noqa: B018 (validates)
    search.configure(Lowest())  # every key leads somewhere
    for i, params in enumerate(file.start):
        outside = {k: v for k, v in params.items() if k not in inside(search, params)}
        if outside and not file.methods:
            raise HarnessError(f"{name}: start {i}: the space does not hold {outside}")
    return search


def grid_of(search: Search) -> dict[str, list[Any]]:
    """All values of all parameters, for the sampler that tries each combination."""
    out = {}
    for key, space in search.spaces.items():
        try:
            out[key] = space.grid()
        except ValueError as error:
            raise HarnessError(f"{search.name}: space.{key}: {error}; choose another sampler") from None
        if space.when:
            raise HarnessError(f"{search.name}: space.{key}: a grid has no `when`; choose another sampler")
    return out


class Lowest:
    """Proposes the first of everything."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:  # fmt: skip  # noqa: E501
        return low

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return low

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return choices[0]


class Within(Lowest):
    """Proposes given values as far as they lie in the space, and notes which do."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params, self.kept = params, {}  # type: ignore[var-annotated]

    def _take(self, name: str, fits: Callable[[Any], bool], instead: Any) -> Any:
        if name not in self.params or not fits(self.params[name]):
            return instead
        self.kept[name] = self.params[name]
        return self.params[name]

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:  # fmt: skip  # noqa: E501
        value: float = self._take(name, lambda v: not isinstance(v, str | None) and low <= v <= high, low)
        return value

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        value: int = self._take(name, lambda v: isinstance(v, int) and v in range(low, high + 1, step), low)
        return value

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return self._take(name, lambda v: v in choices, choices[0])


def inside(search: Search, params: dict[str, Any]) -> dict[str, Any]:
    """The part of `params` that a search could propose."""
    within = Within(params)
    search.configure(within)
    return within.kept
