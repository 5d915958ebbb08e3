"""Who a run is must not change by accident: a user's finished runs would be trained again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import create_model

from harness.config import RunConfig, build_config, cells_of, fingerprint, identity_of, load_recipe, registry
from harness.config.recipes import shipped_recipes
from harness.config.schema import ModelConfig

PINNED = Path(__file__).parent / "fingerprints.json"


def digest_of(recipe: str) -> str:
    """Of the identities of all its runs."""
    ids = sorted({cell.run_id for cell in cells_of(load_recipe(recipe))})
    return hashlib.sha256(" ".join(ids).encode()).hexdigest()[:10]


def test_every_shipped_recipe_is_who_it_was() -> None:
    """A difference here means that runs made before are other runs now. If that is meant, write the file anew with
    `python -m tests.config.test_identity`."""
    assert {name: digest_of(name) for name in shipped_recipes()} == json.loads(PINNED.read_text())


def test_an_option_added_later_changes_nobody_at_its_default() -> None:
    config = build_config({"method": {"name": "rigl", "density": 0.1}}, "t")
    later_model = create_model("LaterModel", __base__=ModelConfig, added=(int, 3))
    later = create_model("Later", __base__=RunConfig, model=(later_model, later_model()))
    assert fingerprint(later(method=config.method)) == fingerprint(config)
    assert fingerprint(later(method=config.method, model=later_model(added=4))) != fingerprint(config)


@pytest.mark.parametrize("name", registry.METHODS)
def test_a_method_at_its_defaults_is_no_other(name: str) -> None:
    density = {"density": 0.1} if registry.load("method", name, registry.METHODS).takes_density else {}
    config = build_config({"method": {"name": name, **density}}, "t")
    assert identity_of(config)["method"]["name"] == name


def test_a_part_turned_off_is_another_run() -> None:
    plain: dict[str, Any] = {"method": {"name": "east", "density": 0.01}, "schedule": {"epochs": 250}}
    whole = build_config(plain, "t")
    for part in ("dyrelu", "sharing", "cyclic"):
        assert fingerprint(build_config({**plain, "method": {**plain["method"], part: None}}, "t")) != fingerprint(
            whole
        )
        assert fingerprint(build_config({**plain, "method": {**plain["method"], part: {}}}, "t")) == fingerprint(whole)


if __name__ == "__main__":
    PINNED.write_text(json.dumps({name: digest_of(name) for name in shipped_recipes()}, indent=1) + "\n")
