"""Weights per network against the literature, and the LSTM against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from harness.config import build_config
from harness.config.schema import ModelConfig
from harness.errors import HarnessError
from harness.models.lenet import lenet5_caffe, lenet_300_100
from harness.models.lstm import GATES, LSTM, Gates, lstm
from harness.models.shape import InputShape
from harness.models.vgg import vgg16, vgg19
from harness.models.wide_resnet import wrn_16_8, wrn_16_10, wrn_22_2, wrn_28_2, wrn_28_8
from harness.sparse.ledger import measure
from harness.sparse.masks import maskable_shapes
from harness.sparse.schedules import Clock
from harness.train.job import build_network

MNIST, CIFAR = InputShape(1, 28, 10), InputShape(3, 32, 10)


def wide(n_blocks: int, k: int) -> int:
    """Weights of a wide residual network: groups of 16 k, 32 k and 64 k channels, a projection at the head of each."""
    total, n_in = 27 * 16, 16
    for n_out in (16 * k, 32 * k, 64 * k):
        total += 9 * n_in * n_out + n_in * n_out + 9 * n_out * n_out + (n_blocks - 1) * 2 * 9 * n_out * n_out
        n_in = n_out
    return total + 10 * n_in


@pytest.mark.parametrize(
    ("build", "inputs", "n_weights", "n_layers"),
    [
        (lenet_300_100, MNIST, 784 * 300 + 300 * 100 + 100 * 10, 3),
        (lenet5_caffe, MNIST, 20 * 25 + 50 * 20 * 25 + 800 * 500 + 500 * 10, 4),
        (vgg16, CIFAR, 14_977_728, 15),  # 14,710,464 in convolutions, 512 x 512 and 512 x 10
        (vgg19, CIFAR, 20_018_880 + 512 * 10, 17),  # 27 x 64, 9 x (64 x 64, 64 x 128, ..., 7 times 512 x 512)
        (wrn_28_2, CIFAR, wide(4, 2), 1 + 3 * 8 + 3 + 1),
        (wrn_16_8, CIFAR, wide(2, 8), 1 + 3 * 4 + 3 + 1),
        (wrn_22_2, CIFAR, wide(3, 2), 1 + 3 * 6 + 3 + 1),
        (wrn_16_10, CIFAR, wide(2, 10), 1 + 3 * 4 + 3 + 1),
        (wrn_28_8, CIFAR, wide(4, 8), 1 + 3 * 8 + 3 + 1),
    ],
)
def test_counts(build: object, inputs: InputShape, n_weights: int, n_layers: int) -> None:
    model = build(ModelConfig(), inputs)  # type: ignore[operator]
    shapes = maskable_shapes(model)
    assert (sum(s.numel() for s in shapes.values()), len(shapes)) == (n_weights, n_layers)
    images = torch.randn(2, inputs.channels, inputs.size, inputs.size)
    assert model(images).shape == (2, 10)


def test_kaiming_normal_initialisation() -> None:
    """Variance 2 / fan-in of every convolution and linear weight, whatever the module's own rule."""
    config = build_config({"model": {"name": "wrn_22_2", "init": "kaiming_normal"}}, "t")
    model, _ = build_network(config, 0, Clock(total_steps=10, steps_per_epoch=10), CIFAR)
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weights) == 1 + 3 * 6 + 3 + 1
    for weight in weights:
        if weight.numel() > 1000:
            assert float(weight.detach().std()) == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.1)


def test_vgg_starts_with_scales_of_a_half() -> None:
    model = vgg16(ModelConfig(), CIFAR)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 13
    assert all(bool((norm.weight == 0.5).all()) for norm in norms)


def test_dropout_is_inside_the_blocks_of_wide_networks_and_in_training_only() -> None:
    model = wrn_22_2(ModelConfig(name="wrn_22_2", dropout=0.3), CIFAR)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.3] * 9
    images = torch.randn(2, 3, 32, 32)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))
    with pytest.raises(HarnessError, match=r"model: dropout is for wide ResNets \(wrn_...\), resnet18 has none"):
        build_config({"model": {"name": "resnet18", "dropout": 0.3}}, "t")


def test_fixed_networks_refuse_a_width() -> None:
    with pytest.raises(HarnessError, match="vgg16 has fixed widths, got 32"):
        vgg16(ModelConfig(name="vgg16", width=32), CIFAR)


def test_lstm_equals_torchs_own() -> None:
    torch.manual_seed(0)
    ours, theirs = LSTM(MNIST, 16), nn.LSTM(28, 16, num_layers=2)
    with torch.no_grad():
        for layer, cell in enumerate((ours.cell1, ours.cell2)):
            getattr(theirs, f"weight_ih_l{layer}").copy_(cell.on_input.stacked())
            getattr(theirs, f"weight_hh_l{layer}").copy_(cell.on_state.stacked())
            getattr(theirs, f"bias_ih_l{layer}").copy_(cell.bias)
            getattr(theirs, f"bias_hh_l{layer}").zero_()
    images = torch.randn(3, 1, 28, 28)
    states, _ = theirs(images[:, 0].transpose(0, 1))  # 28 rows, one after another
    assert torch.allclose(ours(images), ours.classifier(states[-1]), atol=1e-6)


def test_lstm_has_eight_matrices_per_cell_each_used_once_per_row() -> None:
    model = lstm(ModelConfig(width=128), MNIST)
    shapes = maskable_shapes(model)
    assert len(shapes) == 2 * 8 + 1
    assert sum(s.numel() for s in shapes.values()) == 4 * 128 * (28 + 128) + 4 * 128 * (128 + 128) + 1280
    assert [type(m).__name__ for m in model.cell1.on_input.children()] == ["Linear"] * len(GATES)
    geometry = measure(model, 1, 28)
    assert {geometry.positions[name] for name in shapes if name != "classifier"} == {28}
    assert geometry.positions["classifier"] == 1
    for matrices in (m for m in model.modules() if isinstance(m, Gates)):
        assert float(matrices.stacked().detach().abs().max()) <= 128**-0.5
