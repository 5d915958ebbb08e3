"""One layer of ten weights, worked out by hand: what is dropped, grown, kept and zeroed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from baselines.rigl import RigL, RigLOptions
from baselines.set import SET, SETOptions
from harness.config.schema import RunConfig
from harness.sparse.masks import MaskedWeight, install_views, maskable_shapes
from harness.sparse.method import Method
from harness.sparse.schedules import Clock
from harness.train.engine import TorchEngine
from harness.train.ranks import Ranks

WEIGHTS = torch.tensor([[0.5, -0.1, 0.9, 0.2, -0.7, 0.0, 0.0, 0.0, 0.0, 0.0]])
MASK = torch.tensor([[True] * 5 + [False] * 5])
GRADIENT = torch.tensor([[0.0, 3.0, 0.0, 0.1, 0.0, 0.2, 2.0, 0.0, -1.0, 0.0]])
MOMENTUM = torch.arange(1.0, 11.0).view(1, 10)


def one_layer(method_class: type[Method], options: Any) -> tuple[TorchEngine, Method]:
    """An engine whose only layer holds the weights, gradient and momentum above, at step 100 of 1,000."""
    net = nn.Sequential(nn.Linear(10, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(WEIGHTS)
    method = method_class(options, Clock(total_steps=1_000, steps_per_epoch=10), seed=0)
    method.bind(10, maskable_shapes(net))
    install_views(net, {"0": MaskedWeight(MASK.clone())})
    engine = TorchEngine(net, RunConfig(), Ranks(), torch.device("cpu"))
    method.tensors = engine
    parameter = engine.layers["0"][0]
    parameter.grad = GRADIENT.clone()
    engine.write_slot(parameter, "momentum", MOMENTUM)
    engine.hold_gradients()
    return engine, method


def test_rigl() -> None:
    """Two of five are dropped, positions 1 and 3; the two largest gradients outside the kept are at 1 and 6."""
    # f(100) = .45 / 2 (1 + cos(pi 100 / 750)) = .4305; int(.4305 * 5) = 2
    engine, method = one_layer(RigL, RigLOptions(density=0.5, drop_fraction=0.45))
    assert method.update_due(100)
    assert method.replaces_step(100)
    (new,) = method.new_masks(100).values()
    engine.set_mask("0", new)
    assert new.tolist() == [[True, True, True, False, True, False, True, False, False, False]]
    parameter = engine.layers["0"][0]
    # position 1 was dropped and regrown: it keeps value and momentum; 6 is new and starts at zero; 3 is gone
    assert parameter.tolist() == [pytest.approx([0.5, -0.1, 0.9, 0, -0.7, 0, 0, 0, 0, 0])]
    assert engine.read_slot(parameter, "momentum").tolist() == [[1, 2, 3, 0, 5, 0, 0, 0, 0, 0]]


def test_set_drops_the_same_and_grows_at_random() -> None:
    engine, method = one_layer(SET, SETOptions(density=0.5, drop_fraction=0.45))
    (new,) = method.new_masks(100).values()
    assert int(new.sum()) == 5
    assert new[0, [0, 2, 4]].all()
    (again,) = method.new_masks(100).values()
    assert torch.equal(new, again)
    assert any(not torch.equal(method.drop_and_grow("0", step), new) for step in (200, 300, 400))
    engine.set_mask("0", new)
    grown = new & ~MASK
    assert (engine.layers["0"][0][grown] == 0).all()


def test_rigl_stops() -> None:
    _, method = one_layer(RigL, RigLOptions(density=0.5))
    assert [step for step in range(1, 1_001) if method.update_due(step)] == [100, 200, 300, 400, 500, 600, 700]
