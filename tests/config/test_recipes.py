from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import build_config, cells_of, fingerprint, load_recipe, parse_settings, run_id
from harness.config.recipes import merge, shipped_recipes
from harness.errors import HarnessError


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_builds(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.description
    cells = cells_of(recipe)
    assert len({cell.run_id for cell in cells}) == len(cells)


def test_the_demo_runs_dense_once_and_the_rest_at_three_densities() -> None:
    cells = cells_of(load_recipe("demo"))
    names = [cell.config.method.name for cell in cells]
    assert {name: names.count(name) for name in names} == {"dense": 2, "static": 6, "set": 6, "rigl": 6, "east": 6}


def test_the_parts_of_a_suite_have_settings_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(
        "extends: digits_r34\ndescription: two lengths\naxes:\n"
        "  - {methods: [dense, static], densities: [0.1, 0.01], seeds: [0, 1]}\n"
        "  - {methods: [static], densities: [0.1], set: {schedule: {epochs: 30}}}\n"
    )
    cells = cells_of(load_recipe(str(path)), parse_settings(["optimizer.lr=0.05"]))
    short = load_recipe("digits_r34").plain["schedule"]["epochs"]
    assert [(c.config.method.name, c.config.method.density, c.config.schedule.epochs, c.seed) for c in cells] == [
        *(("dense", 1.0, short, seed) for seed in (0, 1)),
        *(("static", density, short, seed) for density in (0.1, 0.01) for seed in (0, 1)),
        ("static", 0.1, 30.0, 0),
    ]
    assert {cell.config.optimizer.lr for cell in cells} == {0.05}
    path.write_text("extends: digits_r34\ndescription: d\naxes: rigl\n")
    with pytest.raises(HarnessError, match="axes are a mapping with methods, densities and seeds, or a list of such"):
        load_recipe(str(path))


def message(plain: dict[str, object]) -> str:
    with pytest.raises(HarnessError) as caught:
        build_config(plain, "here")
    return str(caught.value)


@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        ({"method": {"name": "rigl", "densty": 0.1}}, "here: method.densty is not known; did you mean 'density'?"),
        ({"modle": {}}, "here: modle is not known; did you mean 'model'?"),
        ({"method": {"name": "rigel"}}, "unknown method 'rigel'; did you mean 'rigl'?"),
        ({"model": {"name": "resnet43"}}, "unknown model 'resnet43'; did you mean 'resnet34'?"),
        ({"data": {"name": "cifar"}}, "unknown data set 'cifar'; did you mean 'cifar10'?"),
        ({"method": {"name": "rigl", "density": 99.9}},
         "here: method.density: must lie in (0, 1], got 99.9; 99.9 % sparse is 0.001"),
        ({"method": {"name": "rigl", "density": 0}}, "here: method.density: must lie in (0, 1], got 0"),
        ({"method": {"name": "east", "dyrelu": {"reduce": 4}}},
         "here: method.dyrelu.reduce is not known; did you mean 'reduction'?"),
        ({"optimizer": {"lr": "fast"}}, "here: optimizer.lr: Input should be a valid number, unable to parse string "
         "as a number (found 'fast')"),
        ({"engine": {"zero_stage": 1}}, "here: engine: zero_stage 1 needs engine.name=deepspeed, got torch"),
        ({"data": {"batch_size": 10}, "engine": {"workers": 4}},
         "here: recipe: data.batch_size 10 must divide into 4 workers x 1 micro-batches: choose a multiple of 4"),
    ],
)  # fmt: skip
def test_faults_are_named_with_their_path(plain: dict[str, object], expected: str) -> None:
    assert message(plain) == expected


def test_several_faults_come_together() -> None:
    found = message({"method": {"name": "set", "intervall": 3}, "schedule": {"epochs": -1}})
    assert "method.intervall is not known; did you mean 'interval'?" in found
    assert "schedule.epochs: Input should be greater than 0 (found -1)" in found


def test_unknown_recipes_name_the_nearest() -> None:
    with pytest.raises(HarnessError, match="unknown recipe 'dmo'; did you mean 'demo'"):
        load_recipe("dmo")
    with pytest.raises(HarnessError, match="no recipe file at"):
        load_recipe("missing.yaml")


def test_settings_are_typed() -> None:
    patch = parse_settings(["method.density=0.002", "optimizer.lr=1e-2", "data.flip=true", "data.name=mnist"])
    assert patch == {
        "method": {"density": 0.002}, "optimizer": {"lr": 0.01}, "data": {"flip": True, "name": "mnist"}
    }  # fmt: skip
    with pytest.raises(HarnessError, match="--set needs key=value"):
        parse_settings(["method.density"])


def test_another_method_drops_the_options_of_the_first_but_keeps_the_density() -> None:
    base = {"method": {"name": "rigl", "density": 0.1, "interval": 5}, "data": {"name": "digits"}}
    merged = merge(base, {"method": {"name": "static"}})
    assert merged["method"] == {"name": "static", "density": 0.1}
    assert merge(base, {"method": {"interval": 7}})["method"]["density"] == 0.1


def test_a_recipe_that_extends_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b\n")
    (tmp_path / "b.yaml").write_text("extends: a\n")
    with pytest.raises(HarnessError, match="extends itself"):
        load_recipe(str(tmp_path / "a.yaml"))


def test_identity_leaves_out_where_and_how() -> None:
    plain = {"method": {"name": "rigl", "density": 0.1}, "data": {"batch_size": 64}}
    here = build_config(plain, "a")
    there = build_config(
        merge(plain, {"engine": {"name": "deepspeed", "zero_stage": 1, "workers": 4, "accumulation": 2},
                      "data": {"root": "/elsewhere", "loader": "dali"}, "tracking": {"uri": "http://x"},
                      "evaluation": {"checkpoint_seconds": 1}}), "b",
    )  # fmt: skip
    assert fingerprint(here) == fingerprint(there)
    for change in ({"method": {"density": 0.2}}, {"optimizer": {"lr": 0.2}}, {"engine": {"precision": "bf16"}}):
        assert fingerprint(build_config(merge(plain, change), "c")) != fingerprint(here)
    assert run_id(here, 3) == f"{fingerprint(here)}-3"


def test_a_label_is_no_part_of_identity() -> None:
    plain = {"method": {"name": "rigl", "density": 0.1}}
    labelled = build_config(merge(plain, {"method": {"label": "our rigl"}}), "b")
    assert fingerprint(labelled) == fingerprint(build_config(plain, "a"))


@pytest.mark.parametrize(
    ("suite", "interval"), [("digits_r34_ablation", 38), ("mnist_r34_ablation", 50), ("cifar10_r34_ablation", 4000)]
)
def test_the_arms_of_the_ablation_are_different_runs_with_one_backbone(suite: str, interval: int) -> None:
    cells = [c for c in cells_of(load_recipe(suite)) if c.seed == 0]
    assert len({c.config.method.label for c in cells}) == 9
    assert len({c.run_id for c in cells}) == 18
    assert {c.config.method.model_dump()["interval"] for c in cells} == {interval}


def test_ablation_and_table_share_what_they_have_in_common() -> None:
    table, ablation = ({c.run_id for c in cells_of(load_recipe(f"cifar10_r34_{n}"))} for n in ("table", "ablation"))
    assert len(table & ablation) == 2 * 2 * 3  # EAST and RigL at two densities, three seeds


def test_a_config_survives_its_own_yaml() -> None:
    config = cells_of(load_recipe("digits_r34_east"))[0].config
    assert build_config(config.model_dump(mode="json"), "again") == config
