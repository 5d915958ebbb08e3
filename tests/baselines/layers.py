"""An engine around one linear layer whose weights are given, for cases worked out by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.config.schema import MethodOptions, OptimizerConfig, RunConfig
from harness.sparse.masks import install_views, maskable_shapes
from harness.sparse.method import Method
from harness.sparse.schedules import Clock
from harness.train.engine import TorchEngine
from harness.train.ranks import Ranks

CLOCK = Clock(total_steps=1_000, steps_per_epoch=10, schedule_steps=1_000)


def one_layer(
    method_class: type[Method],
    options: MethodOptions,
    weights: Tensor,
    clock: Clock = CLOCK,
    **optimizer: Any,
) -> tuple[TorchEngine, Any]:
    """weights: [out, in]. The layer is called '0'; momentum SGD of rate 0.1 without decay unless told otherwise."""
    net = nn.Sequential(nn.Linear(weights.shape[1], weights.shape[0], bias=False))
    with torch.no_grad():
        net[0].weight.copy_(weights)
    method = method_class(options, clock, seed=0)
    method.bind(weights.numel(), maskable_shapes(net))
    install_views(net, method.views())
    settings = {"lr": 0.1, "weight_decay": 0.0, "nesterov": False, **optimizer}
    engine = TorchEngine(net, RunConfig(optimizer=OptimizerConfig(**settings)), Ranks(), torch.device("cpu"))
    method.tensors = engine
    return engine, method
