"""east.md table 4.4: weights per layer of ResNet-34 / CIFAR-10 with shared stages, by the public code's single pass."""

from __future__ import annotations

import pytest
import torch

from east.sharing import share_weights
from harness.config.schema import ModelConfig
from harness.models.resnet import resnet34
from harness.models.shape import InputShape
from harness.sparse.budgets import layer_budgets, layer_densities
from harness.sparse.masks import maskable_shapes

N_TOTAL = 21_265_088
DENSITIES = (1e-2, 1e-3, 5e-4, 1e-4)
TABLE = {
    "conv1": (1674, 167, 84, 17),
    "stages.0.0.conv1": (3073, 307, 154, 31),
    "stages.0.1.conv2": (3073, 307, 154, 31),
    "stages.1.0.conv1": (4541, 454, 227, 45),
    "stages.1.1.conv2": (6008, 601, 300, 60),
    "stages.1.0.shortcut.conv": (4449, 445, 222, 44),
    "stages.2.0.conv1": (8944, 894, 447, 89),
    "stages.2.1.conv1": (11879, 1188, 594, 119),
    "stages.2.0.shortcut.conv": (8852, 885, 443, 88),
    "stages.3.0.conv1": (17749, 1775, 887, 177),
    "stages.3.0.conv2": (23620, 2362, 1181, 236),
    "stages.3.0.shortcut.conv": (17658, 1766, 883, 177),
    "classifier": (5120, 1197, 599, 120),
}
SUMS = (205_800, 21_264, 10_633, 2_126)


@pytest.fixture(scope="module")
def shapes() -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = resnet34(ModelConfig(), InputShape(3, 32, 10))
    share_weights(model, 2, seed=0)
    return maskable_shapes(model)


@pytest.mark.parametrize("column", range(4))
def test_single_pass_counts(shapes: dict[str, torch.Size], column: int) -> None:
    densities = layer_densities(shapes, int(DENSITIES[column] * N_TOTAL), "erk_single_pass")
    counts = {name: round(densities[name] * shape.numel()) for name, shape in shapes.items()}
    for name, row in TABLE.items():
        assert counts[name] == pytest.approx(row[column], abs=1), name
    assert sum(counts.values()) == pytest.approx(SUMS[column], abs=6)


@pytest.mark.parametrize("density", DENSITIES)
def test_the_default_sums_exactly_where_a_single_pass_falls_short(
    shapes: dict[str, torch.Size], density: float
) -> None:
    total = round(density * N_TOTAL)
    budgets = layer_budgets(shapes, total, "erk")
    assert sum(budgets.values()) == total
    if density == 1e-2:
        assert budgets["classifier"] == 5120, "saturated: the rest is solved again without it"
