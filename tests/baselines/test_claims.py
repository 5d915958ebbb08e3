from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import baselines
from harness.board.claims import load_claims
from harness.cli.board import fingerprints_of
from harness.config import cells_of, load_recipe
from harness.config.schema import model_label

CLAIMS = yaml.safe_load((Path(baselines.__file__).parent / "claims.yaml").read_text())["claims"]


def test_how_many_there_are_of_each() -> None:
    """Counted by hand over the papers' tables."""
    methods = [c["method"] for c in CLAIMS]
    expected = {
        "dst": 19,
        "str": 8,
        "gmp": 20,
        "acdc": 10,
        "imp": 13,
        "dns": 5,
        "topkast": 2,
        "snip": 28,
        "grasp": 8,
        "snfs": 19,
        "srigl": 14,
        "granet": 6,
    }
    assert {name: methods.count(name) for name in expected} == expected
    assert {c["tag"] for c in CLAIMS} == {"P", "R", "2"}


@pytest.mark.parametrize(
    ("data", "model", "method", "density", "mean", "std"),
    [
        ("mnist", "lenet_300_100", "dst", 0.0248, 97.69, 0.14),
        ("mnist", "lstm-w256", "dst", 0.0098, 98.89, 0.11),
        ("mnist", "lenet5_caffe", "dense", 1.0, 99.18, 0.05),
        ("mnist", "lenet_300_100", "dns", 0.018, 98.0, None),
        ("cifar10", "vgg16", "dst", 0.0376, 93.02, 0.37),
        ("cifar10", "resnet50-w64", "gmp", 0.05, 94.52, 0.08),
        ("imagefolder:imagenet", "resnet50-w64", "str", 0.0977, 74.31, None),
        ("imagefolder:imagenet", "resnet50-w64", "acdc", 0.02, 68.48, None),
        ("mnist", "lenet_300_100", "snip", 0.05, 98.4, None),
        ("mnist", "lenet_300_100", "snfs", 0.05, 98.53, None),
        ("mnist", "lenet_300_100", "deepr", 0.02, 98.21, None),
        ("cifar10", "vgg19", "grasp", 0.02, 92.19, 0.12),
        ("imagefolder:imagenet", "resnet50-w64", "srigl", 0.01, 51.55, None),
        ("imagefolder:imagenet", "resnet50-w64", "snip", 0.05, 57.8, 0.4),
    ],
)
def test_cells_by_hand(data: str, model: str, method: str, density: float, mean: float, std: float | None) -> None:
    wanted = (data, model, method, density)
    (claim,) = [c for c in CLAIMS if (c["data"], c["model"], c["method"], c["density"]) == wanted]
    assert (claim["mean"], claim["std"]) == (mean, std)


def test_every_recipe_that_is_named_trains_that_method_on_that_network() -> None:
    for claim in load_claims():
        if claim.recipe is None:
            continue
        assert fingerprints_of(claim.recipe, claim.label, claim.density)
        configs = [cell.config for cell in cells_of(load_recipe(claim.recipe))]
        names = {"imagefolder:imagenet" if c.data.name == "imagefolder" else c.data.name for c in configs}
        assert (claim.data, claim.model) in {(data, model_label(c)) for c in configs for data in names}, claim
