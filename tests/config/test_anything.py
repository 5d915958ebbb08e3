"""Whatever stands in a recipe, a setting, a claims file or a record, the answer is a value or one message."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.board.claims import read_claims
from harness.config import build_config, cells_of, load_recipe, parse_settings
from harness.config.schema import RunConfig
from harness.errors import HarnessError
from harness.track.record import read_events, read_result

SECTIONS = [*RunConfig.model_fields, "extends", "description", "axes"]
KEYS = sorted(
    {key for field in RunConfig.model_fields.values() for key in getattr(field.annotation, "model_fields", ())}
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(), st.text(max_size=20),
    st.sampled_from(["rigl", "east", "dst", "resnet34", "digits", "imagefolder", "deepspeed", "nan", "1e-4", "../x"]),
)  # fmt: skip
keys = st.sampled_from(KEYS) | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)
recipes = st.dictionaries(st.sampled_from(SECTIONS) | st.text(max_size=8), values, max_size=6)


@given(recipes)
@settings(max_examples=400, deadline=None)
def test_any_mapping_as_a_recipe(plain: dict[str, Any]) -> None:
    try:
        build_config(plain, "here")
    except HarnessError as error:
        assert str(error).startswith(("here: ", "unknown", "method '", "model '")), str(error)


BASES = {
    name: load_recipe(name).plain
    for name in ("digits_r34_east", "mnist_lenet300_dst", "imagenet_r50_gmp", "cifar10_r50_gmp")
}
places = [(name, section, key) for name, plain in BASES.items() for section in plain for key in plain[section]]


@given(st.sampled_from(places), values, st.sampled_from(SECTIONS), keys, values)
@settings(max_examples=400, deadline=None)
def test_a_recipe_with_something_else_in_two_places(
    place: tuple[str, str, str], value: Any, section: str, key: str, other: Any
) -> None:
    name, first, changed = place
    plain = {k: dict(v) for k, v in BASES[name].items()}
    plain[first][changed] = value
    plain.setdefault(section, {})[key] = other
    try:
        build_config(plain, "here")
    except HarnessError as error:
        assert str(error)


@given(recipes | values)
@settings(max_examples=200, deadline=None)
def test_any_yaml_as_a_recipe_file(content: Any) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "some.yaml"
        path.write_text(yaml.safe_dump(content))
        try:
            cells_of(load_recipe(str(path)))
        except HarnessError as error:
            assert str(error)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_as_a_file(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "some.yaml"
        path.write_bytes(content)
        (Path(folder) / "result.json").write_bytes(content)
        (Path(folder) / "record.jsonl").write_bytes(content)
        for read in (
            lambda: cells_of(load_recipe(str(path))),
            lambda: read_claims(content, "some.yaml"),
            lambda: read_result(path.parent),
            lambda: list(read_events(path.parent)),
        ):
            try:
                read()
            except HarnessError as error:
                assert str(error)


@given(st.lists(st.text(max_size=30) | st.builds(lambda k, v: f"{k}={v}", st.text(max_size=10), st.text(max_size=10))))
@settings(max_examples=300, deadline=None)
def test_any_words_as_settings(words: list[str]) -> None:
    try:
        parse_settings(words)
    except HarnessError as error:
        assert str(error)


@given(
    st.dictionaries(st.sampled_from(["schema", "status", "run_id", "density", "layers", "config"]) | st.text(), values)
)
@settings(max_examples=200, deadline=None)
def test_any_mapping_as_a_result(plain: dict[str, Any]) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / "result.json").write_text(json.dumps(plain))
        try:
            read_result(Path(folder))
        except HarnessError as error:
            assert str(error)
