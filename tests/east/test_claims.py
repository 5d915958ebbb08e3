from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import east
from harness.config import cells_of, load_recipe
from harness.config.schema import model_label

CLAIMS = yaml.safe_load((Path(east.__file__).parent / "claims.yaml").read_text())["claims"]


def test_every_published_number_is_there() -> None:
    """east.md 6.1 has 16 + 8 + 8 cells, 6.2 four older ones."""
    current = [c for c in CLAIMS if not c.get("superseded")]
    assert (len(current), len(CLAIMS)) == (32, 36)
    assert len({(c["data"], c["model"], c["method"], c["density"]) for c in current}) == 32
    assert {c["tag"] for c in CLAIMS} == {"T"}


@pytest.mark.parametrize(
    ("data", "model", "method", "density", "mean", "std"),
    [
        ("cifar10", "resnet34-w64", "east", 1e-4, 62.12, 0.90),
        ("cifar10", "resnet34-w64", "synflow", 1e-3, 61.61, 10.76),
        ("cifar100", "resnet34-w64", "rigl", 5e-4, 38.44, 0.95),
        ("cifar100", "resnet34-w64", "east", 1e-4, 18.84, None),
        ("cifar10", "resnet50-w64", "rigl", 1e-3, 58.41, 42.03),
        ("cifar10", "resnet50-w64", "east", 1e-2, 93.48, 0.13),
    ],
)
def test_cells_by_hand(data: str, model: str, method: str, density: float, mean: float, std: float | None) -> None:
    wanted = (data, model, method, density)
    (claim,) = [
        c for c in CLAIMS
        if (c["data"], c["model"], c["method"], c["density"]) == wanted and not c.get("superseded")
    ]  # fmt: skip
    assert (claim["mean"], claim["std"], claim["n"]) == (mean, std, 3)


def test_every_claim_but_synflows_has_a_cell_in_its_recipe() -> None:
    for claim in CLAIMS:
        if claim["recipe"] is None or claim["method"] == "synflow":
            continue
        cells = cells_of(load_recipe(claim["recipe"]))
        found = {
            (c.config.data.name, model_label(c.config),
             c.config.method.label or c.config.method.name, c.config.method.density)
            for c in cells
        }  # fmt: skip
        assert (claim["data"], claim["model"], claim["method"], claim["density"]) in found
