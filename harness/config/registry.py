"""Names and where they live. Nothing here imports what it names until it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from harness.errors import HarnessError

METHODS: dict[str, str] = {
    "dense": "harness.sparse.method:Method",
    "static": "baselines.static:Static",
    "set": "baselines.set:SET",
    "rigl": "baselines.rigl:RigL",
    "east": "east.method:EAST",
}

MODELS: dict[str, str] = {
    "resnet18": "harness.models.resnet:resnet18",
    "resnet34": "harness.models.resnet:resnet34",
    "resnet50": "harness.models.resnet:resnet50",
    "lenet_300_100": "harness.models.lenet:lenet_300_100",
}

DATA: dict[str, str] = {
    "digits": "harness.data.sources:read_digits",
    "mnist": "harness.data.sources:read_mnist",
    "cifar10": "harness.data.sources:read_cifar10",
    "cifar100": "harness.data.sources:read_cifar100",
    "synthetic": "harness.data.sources:read_synthetic",
    "imagefolder": "harness.data.folder:index_folder",
}


def nearest(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """'; did you mean X?' where something close is known, else the list of what is."""
    close = get_close_matches(name, list(known), n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known))}"


def check_known(kind: str, name: str, table: Mapping[str, str]) -> None:
    if name not in table:
        raise HarnessError(f"unknown {kind} '{name}'; {nearest(name, table)}")


def load(kind: str, name: str, table: Mapping[str, str]) -> Any:
    """Import what `name` stands for."""
    check_known(kind, name, table)
    return load_path(table[name])


def load_path(path: str) -> Any:
    module, attribute = path.split(":")
    return getattr(importlib.import_module(module), attribute)


def add_method(name: str, path: str) -> None:
    """Make a method of another package known, e.g. ``add_method("mine", "my_package.mine:Mine")``."""
    METHODS[name] = path
