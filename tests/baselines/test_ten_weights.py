"""One layer of ten weights, worked out by hand: what is dropped, grown, kept and zeroed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from baselines.rigl import RigL, RigLOptions
from baselines.set import SET, SETOptions
from harness.sparse.method import Method
from harness.train.engine import TorchEngine
from tests.baselines.layers import one_layer

WEIGHTS = torch.tensor([[0.5, -0.1, 0.9, 0.2, -0.7, 0.0, 0.0, 0.0, 0.0, 0.0]])
MASK = torch.tensor([[True] * 5 + [False] * 5])
GRADIENT = torch.tensor([[0.0, 3.0, 0.0, 0.1, 0.0, 0.2, 2.0, 0.0, -1.0, 0.0]])
MOMENTUM = torch.arange(1.0, 11.0).view(1, 10)


def ten_weights(method_class: type[Method], options: Any) -> tuple[TorchEngine, Any]:
    """An engine whose only layer holds the weights, mask, gradient and momentum above, at step 100 of 1,000."""
    engine, method = one_layer(method_class, options, WEIGHTS)
    parameter = engine.stored("0")
    engine.mask("0").copy_(MASK)
    engine.write(parameter, WEIGHTS)
    parameter.grad = GRADIENT.clone()
    engine.write_slot(parameter, "momentum", MOMENTUM)
    engine.hold_gradients()
    return engine, method


def test_rigl() -> None:
    """Two of five are dropped, positions 1 and 3; the two largest gradients outside the kept are at 1 and 6."""
    # f(100) = .45 / 2 (1 + cos(pi 100 / 750)) = .4305; int(.4305 * 5) = 2
    engine, method = ten_weights(RigL, RigLOptions(density=0.5, drop_fraction=0.45))
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
    engine, method = ten_weights(SET, SETOptions(density=0.5, drop_fraction=0.45))
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
    _, method = ten_weights(RigL, RigLOptions(density=0.5))
    assert [step for step in range(1, 1_001) if method.update_due(step)] == [100, 200, 300, 400, 500, 600, 700]
