from __future__ import annotations

import pytest
import torch
from torch import nn

from east.dyrelu import put_dyrelu
from east.sharing import share_weights
from harness.config.schema import ModelConfig
from harness.models.resnet import resnet34, resnet50
from harness.models.shape import InputShape
from harness.sparse.budgets import layer_densities
from harness.sparse.ledger import Geometry, Ledger, measure
from harness.sparse.masks import maskable_shapes

CIFAR = InputShape(3, 32, 10)


def macs_at(build: object, shared: bool, density: float) -> float:
    """With the single-pass ERK of the specification's table, not rounded to weights."""
    torch.manual_seed(0)
    model = build(ModelConfig(), CIFAR)  # type: ignore[operator]
    n_total = sum(s.numel() for s in maskable_shapes(model).values())
    if shared:
        share_weights(model, 2, seed=0)
    shapes = maskable_shapes(model)
    geometry = measure(model, 3, 32)
    densities = layer_densities(shapes, int(density * n_total), "erk_single_pass")
    return sum(densities[name] * shapes[name].numel() * geometry.positions[name] for name in shapes)


# east.md section 6.5
@pytest.mark.parametrize(
    ("build", "density", "unshared", "shared"),
    [
        (resnet34, 1e-2, 25.2e6, 45.6e6),
        (resnet34, 1e-3, 2.52e6, 4.56e6),
        (resnet34, 1e-4, 0.252e6, 0.458e6),
        (resnet50, 1e-2, 29.3e6, 51.9e6),
        (resnet50, 1e-3, 2.93e6, 5.19e6),
        (resnet50, 1e-4, 0.294e6, 0.519e6),
    ],
)
def test_table_6_5(build: object, density: float, unshared: float, shared: float) -> None:
    assert macs_at(build, False, density) == pytest.approx(unshared, rel=4e-3)  # the table has three digits
    assert macs_at(build, True, density) == pytest.approx(shared, rel=4e-3)


@pytest.mark.parametrize(("build", "dense"), [(resnet34, 1_159.4e6), (resnet50, 1_297.8e6)])
def test_dense_macs(build: object, dense: float) -> None:
    model = build(ModelConfig(), CIFAR)  # type: ignore[operator]
    sizes = {name: shape.numel() for name, shape in maskable_shapes(model).items()}
    assert measure(model, 3, 32).macs(sizes) == pytest.approx(dense, rel=1e-4)


def test_used_connections_of_resnet34() -> None:
    """east.md section 3.3: 2,126 weights at 99.99 % are used 3,852 times; counts of its table 4.4."""
    model = resnet34(ModelConfig(), CIFAR)
    share_weights(model, 2, seed=0)
    shapes, geometry = maskable_shapes(model), measure(model, 3, 32)
    densities = layer_densities(shapes, 2126, "erk_single_pass")
    counts = {name: round(densities[name] * shapes[name].numel()) for name in shapes}
    assert sum(counts.values()) == 2126
    assert geometry.used_connections(counts) == pytest.approx(3852, abs=3)


def test_measuring_leaves_the_model_alone() -> None:
    model = resnet34(ModelConfig(width=4), CIFAR)
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    measure(model, 3, 32)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


def test_hyper_networks_cost_while_they_are_there() -> None:
    model = resnet34(ModelConfig(width=8), CIFAR)
    plain = measure(model, 3, 32).dense_macs
    put_dyrelu(model, 4)
    hyper = measure(model, 3, 32).dense_macs
    linears = [m for n, m in model.named_modules() if isinstance(m, nn.Linear) and "classifier" not in n]
    assert plain == 0
    assert hyper == sum(m.weight.numel() for m in linears)


def test_training_flops_by_hand() -> None:
    """Two layers of 10 and 4 positions; 6 of 20 and 5 of 5 weights active."""
    geometry = Geometry({"a": 10, "b": 4}, {"a": 1, "b": 1}, dense_macs=7)
    ledger = Ledger(geometry, {"a": 20, "b": 5}, torch.device("cpu"))
    ledger.n_active = {"a": 6, "b": 5}
    assert ledger.inference_macs == 60 + 20 + 7
    ledger.add(3, trained=None)
    assert ledger.train_flops == 2 * 3 * 3 * 87
    ledger.add(1, trained=ledger.sizes)
    assert ledger.train_flops == 2 * 3 * 3 * 87 + 2 * (2 * 87 + 200 + 20 + 7)
