from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.schema import ModelConfig
from harness.errors import HarnessError
from harness.models.lenet import lenet_300_100
from harness.models.resnet import resnet34, resnet50
from harness.models.shape import InputShape
from harness.sparse.budgets import largest_remainder, layer_budgets, layer_densities, total_budget
from harness.sparse.masks import maskable_shapes


def resnet50_shapes() -> dict[str, torch.Size]:
    with torch.device("meta"):
        return maskable_shapes(resnet50(ModelConfig(name="resnet50", stem="imagenet"), InputShape(3, 224, 1000)))


# baselines.md section 2: ResNet-50 v1.5, 54 tensors, 25,502,912 weights
@pytest.mark.parametrize(
    ("sparsity", "n_dense", "conv1", "block2_conv1", "block2_conv2", "classifier"),
    [(0.80, 8, 0.857, 0.2433, 0.0435, 0.1482), (0.90, 1, 0.420, 0.1192, 0.0213, 0.0726),
     (0.95, 0, 0.210, 0.0595, 0.0106, 0.0363)],
)  # fmt: skip
def test_erk_oracle_of_resnet50(
    sparsity: float, n_dense: int, conv1: float, block2_conv1: float, block2_conv2: float, classifier: float
) -> None:
    shapes = resnet50_shapes()
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    assert (len(shapes), sum(sizes.values())) == (54, 25_502_912)
    density = layer_densities(shapes, total_budget(1 - sparsity, 25_502_912), "erk")
    assert sum(d == 1 for d in density.values()) == n_dense
    assert density["conv1"] == pytest.approx(conv1, abs=6e-4)
    assert density["stages.3.2.conv1"] == pytest.approx(block2_conv1, abs=6e-5)
    assert density["stages.3.2.conv2"] == pytest.approx(block2_conv2, abs=6e-5)
    assert density["classifier"] == pytest.approx(classifier, abs=6e-5)


def test_the_layers_erk_leaves_dense_at_80_percent() -> None:
    density = layer_densities(resnet50_shapes(), total_budget(0.2, 25_502_912), "erk")
    assert {name for name, d in density.items() if d == 1} == {
        "stages.0.0.conv1", "stages.0.0.conv3", "stages.0.0.shortcut.conv", "stages.0.1.conv1", "stages.0.1.conv3",
        "stages.0.2.conv1", "stages.0.2.conv3", "stages.1.0.conv1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("density", "expected"),
    [(0.10, (0.0796, 0.2302, 1.0)), (0.05, (0.0385, 0.1113, 0.9185)), (0.02, (0.0154, 0.0445, 0.3674))],
)
def test_erk_of_lenet_300_100(density: float, expected: tuple[float, ...]) -> None:
    shapes = maskable_shapes(lenet_300_100(ModelConfig(name="lenet_300_100"), InputShape(1, 28, 10)))
    total = total_budget(density, sum(s.numel() for s in shapes.values()))
    assert tuple(layer_densities(shapes, total, "erk").values()) == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize(("density", "n_active"), [(1e-2, 212_651), (1e-3, 21_265), (5e-4, 10_633), (1e-4, 2_127)])
def test_resnet34_totals(density: float, n_active: int) -> None:
    """east.md section 7 truncates .5 and above (2,126.5 -> 2,126); here the total is the nearest integer."""
    with torch.device("meta"):
        shapes = maskable_shapes(resnet34(ModelConfig(), InputShape(3, 32, 10)))
    n_weights = sum(s.numel() for s in shapes.values())
    assert n_weights == 21_265_088
    total = total_budget(density, n_weights)
    assert total == pytest.approx(n_active, abs=1)
    budgets = layer_budgets(shapes, total, "erk")
    assert sum(budgets.values()) == total
    assert min(budgets.values()) >= 1


def test_a_budget_below_one_weight_per_layer_is_refused() -> None:
    with pytest.raises(HarnessError, match="a budget of 1 weights is below one weight for each of 2 layers"):
        layer_budgets({"a": (4, 4), "b": (4, 4)}, 1, "erk")


def test_largest_remainder_by_hand() -> None:
    wanted = {"a": 2.6, "b": 1.7, "c": 0.2, "d": 5.5}
    sizes = dict.fromkeys(wanted, 6)
    assert largest_remainder(wanted, sizes, 10) == {"a": 2, "b": 2, "c": 1, "d": 5}


shapes_strategy = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 12), st.integers(1, 12)),
        st.tuples(st.integers(1, 8), st.integers(1, 8), st.sampled_from([1, 3]), st.sampled_from([1, 3])),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(shapes_strategy, st.sampled_from(["erk", "er", "uniform", "erk_single_pass"]), st.data())
def test_budgets_sum_exactly_and_fit(shapes: list[tuple[int, ...]], distribution: str, data: st.DataObject) -> None:
    named = {f"layer{i}": shape for i, shape in enumerate(shapes)}
    sizes = {name: math.prod(shape) for name, shape in named.items()}
    total = data.draw(st.integers(len(named), sum(sizes.values())))
    budgets = layer_budgets(named, total, distribution)  # type: ignore[arg-type]
    assert sum(budgets.values()) == total
    assert all(1 <= budgets[name] <= sizes[name] for name in named)
