"""Recipes: YAML files that extend one another, patched from the command line, validated with one clear error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.config import registry
from harness.config.identity import run_id
from harness.config.schema import RunConfig
from harness.errors import HarnessError

SHIPPED = Path(__file__).parent.parent / "recipes"


class Axes(BaseModel):
    """What a suite, or a part of it, varies: every method at every density and seed.

    A method is a name, or its options with a name; one that takes no density runs once whatever the densities.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    methods: tuple[str | dict[str, Any], ...] = Field(min_length=1)
    densities: tuple[float, ...] = (1.0,)
    seeds: tuple[int, ...] = (0,)
    set: dict[str, Any] = {}
    """What else is other than in the suite's own sections."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named, merged recipe, not yet validated: `plain` holds the sections of RunConfig."""

    name: str
    description: str
    plain: dict[str, Any]
    axes: tuple[Axes, ...] = ()
    """The parts of a suite; empty: one run."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a suite."""

    config: RunConfig
    seed: int
    run_id: str = field(default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "run_id", run_id(self.config, self.seed))


def shipped_recipes() -> dict[str, Path]:
    return {p.stem: p for p in sorted(SHIPPED.glob("*.yaml"))}


def load_recipe(name: str) -> Recipe:
    """Read a shipped recipe by name, or a file by its path, with everything it extends merged in."""
    path = _find(name)
    merged = _read_merged(path, trail=())
    axes = merged.pop("axes", [])
    description = str(merged.pop("description", ""))
    try:
        parsed = tuple(Axes(**part) for part in (axes if isinstance(axes, list) else [axes]))
    except TypeError:
        raise HarnessError(f"{name}: axes are a mapping with methods, densities and seeds, or a list of such") from None
    except ValidationError as error:
        raise HarnessError(explain(error, f"{name}: axes", Axes)) from None
    return Recipe(path.stem, description, merged, parsed)


def _find(name: str) -> Path:
    return find_file(name, shipped_recipes(), "recipe", ("suites/", "recipes/"))


def find_file(name: str, shipped: dict[str, Path], kind: str, folders: tuple[str, ...]) -> Path:
    """A shipped file by its name, with or without the folder it seems to be in, or a file by its path."""
    short = name
    for folder in folders:
        short = short.removeprefix(folder)
    if short in shipped:
        return shipped[short]
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not is_file(path):
            raise HarnessError(f"no {kind} file at {path}")
        return path
    raise HarnessError(
        f"unknown {kind} '{name}'; {registry.nearest(short, shipped)} (or give the path of a .yaml file)"
    )


def is_file(path: Path) -> bool:
    """Also for what could not be a path at all: too long, or with a null character."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _read_merged(path: Path, trail: tuple[Path, ...]) -> dict[str, Any]:
    if path in trail:
        raise HarnessError(f"{path.name}: extends itself through {' -> '.join(p.name for p in trail)}")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise HarnessError(f"{path}: a recipe is a mapping of sections, found {type(content).__name__}")
    parent = content.pop("extends", None)
    if parent is None:
        return content
    if not isinstance(parent, str):
        raise HarnessError(f"{path}: extends is the name of one recipe, found {parent!r:.60}")
    sibling = path.parent / f"{parent}.yaml"
    base = _read_merged(sibling if is_file(sibling) else _find(parent), (*trail, path))
    base.pop("axes", None)
    base.pop("description", None)
    return merge(base, content)


def merge(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """`patch` over `base`, mapping by mapping. Another method name drops the options of the first, but its density."""
    out = dict(base)
    for key, value in patch.items():
        if key == "method" and isinstance(value, dict) and isinstance(out.get(key), dict):
            before = out[key]
            if value.get("name", before.get("name")) != before.get("name"):
                before = {k: v for k, v in before.items() if k == "density"}
            out[key] = merge(before, value)
        elif isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merge(out[key], value)
        else:
            out[key] = value
    return out


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """``["method.density=0.002"]`` as nested mappings; values are YAML."""
    patch: dict[str, Any] = {}
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign or not key:
            raise HarnessError(f"--set needs key=value, as in --set method.density=0.002; got '{setting}'")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            raise HarnessError(f"--set {key}: '{value}' is not a valid value") from None
        if isinstance(parsed, str):
            with suppress(ValueError):
                parsed = float(parsed)  # YAML 1.1 reads 1e-4 as a string
        patch = merge(patch, nested(key, parsed))
    return patch


def nested(key: str, value: Any) -> dict[str, Any]:
    """`method.density` and a value as {"method": {"density": value}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    out: dict[str, Any] = value
    return out


def build_config(plain: dict[str, Any], where: str) -> RunConfig:
    """Validate; every fault is reported with the path of its key and the nearest valid name."""
    method = plain.get("method", {})
    if not isinstance(method, dict) or not all(isinstance(key, str) for key in (*plain, *method)):
        raise HarnessError(f"{where}: sections are mappings with words as keys; method is {method!r}")
    options = registry.load("method", str(method.get("name", "dense")), registry.METHODS).Options
    faults = []
    try:  # the method's options first: inside RunConfig their faults would lose the path of their key
        plain = {**plain, "method": options(**method)}
    except ValidationError as error:
        faults.append(explain(error, where, options, ("method",)))
        plain = {k: v for k, v in plain.items() if k != "method"}
    try:
        config = RunConfig(**plain)
    except ValidationError as error:
        faults.append(explain(error, where, RunConfig))
    if faults:
        raise HarnessError("\n".join(faults))
    return config


def cells_of(
    recipe: Recipe,
    patch: dict[str, Any] | None = None,
    seeds: list[int] | None = None,
    methods: list[str] | None = None,
) -> list[Cell]:
    """The runs of a suite (or the one of a plain recipe), each once, in the order of the axes."""
    if not recipe.axes:
        config = build_config(merge(recipe.plain, patch or {}), recipe.name)
        return [Cell(config, seed) for seed in (seeds or [0])]
    cells: dict[str, Cell] = {}
    for part in recipe.axes:
        plain = merge(recipe.plain, part.set)
        for entry in part.methods:
            options: dict[str, Any] = {"name": entry} if isinstance(entry, str) else dict(entry)
            if methods and not {options.get("name"), options.get("label")} & set(methods):
                continue
            for config in _at_densities(plain, options, part.densities, patch or {}, recipe.name):
                for seed in seeds or part.seeds:
                    cell = Cell(config, seed)
                    cells.setdefault(cell.run_id, cell)
    if not cells:
        known = [m for part in recipe.axes for m in part.methods]
        raise HarnessError(f"{recipe.name}: no cell left; its methods are {known}")
    return list(cells.values())


def _at_densities(
    plain: dict[str, Any], options: dict[str, Any], densities: tuple[float, ...], patch: dict[str, Any], where: str
) -> Iterator[RunConfig]:
    """One method of a suite at each density; `patch` is the last word on both."""
    patched = patch.get("method", {})
    for density in [patched["density"]] if "density" in patched else densities:
        method = {**merge({"method": plain.get("method", {})}, {"method": options})["method"], **patched}
        takes = registry.load("method", str(method.get("name", "dense")), registry.METHODS).takes_density
        method["density"] = density if takes else 1.0
        yield build_config({**merge(plain, patch), "method": method}, where)


def explain(error: ValidationError, where: str, schema: type[BaseModel], prefix: tuple[str, ...] = ()) -> str:
    """One line per fault, with the path of its key and, for a key that is not known, the nearest that is."""
    lines = []
    for fault in error.errors():
        path = [str(part) for part in fault["loc"]]
        shown_path = ".".join((*prefix, *path)) or "recipe"
        if fault["type"] == "extra_forbidden":
            lines.append(
                f"{where}: {shown_path} is not known; {registry.nearest(path[-1], _fields_at(schema, path[:-1]))}"
            )
        else:
            message = fault["msg"].removeprefix("Value error, ")
            found = fault.get("input")
            shown = (
                f" (found {found!r})" if isinstance(found, str | int | float | bool) and "got" not in message else ""
            )
            lines.append(f"{where}: {shown_path}: {message}{shown}")
    return "\n".join(lines)


def _fields_at(schema: type[BaseModel], path: list[str]) -> list[str]:
    """The valid names inside the section at `path`; an optional or repeated section counts as the section."""
    for part in path:
        if part in schema.model_fields:  # else it is an index or a key
            annotation: Any = schema.model_fields[part].annotation
            parts = [annotation, *getattr(annotation, "__args__", ())]
            schema = next(a for a in parts if isinstance(a, type) and issubclass(a, BaseModel))
    return list(schema.model_fields)


def out_root(out: str | None) -> Path:
    return Path(out or os.environ.get("HARNESS_OUT") or "runs").absolute()
