from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.config.schema import RunConfig
from harness.errors import HarnessError
from harness.sparse.masks import LearnedMask, WeightView
from harness.sparse.method import EmergentMethod, EmergentOptions


class STROptions(EmergentOptions):
    name: str = "str"
    s_init: float = -3200.0
    """Where each layer's s starts; the threshold is sigmoid(s). The authors use -3200 on ResNet-50, -100 on CIFAR."""


class SoftThreshold(LearnedMask):
    """sign(theta) relu(|theta| - sigmoid(s)), s one trained scalar per layer, computed in fp32."""

    def __init__(self, s_init: float) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.full((1,), s_init))  # DeepSpeed takes no 0-dimensional parameter

    def kept(self, theta: Tensor) -> Tensor:
        return theta.abs() > torch.sigmoid(self.s)

    def forward(self, theta: Tensor) -> Tensor:
        effective = torch.sign(theta) * torch.relu(theta.abs() - torch.sigmoid(self.s))
        self.n_kept = (effective.detach() != 0).sum()
        return effective


class STR(EmergentMethod):
    """Soft threshold reparametrization: weight decay pulls s towards zero, and so thresholds up; the loss resists."""

    Options: ClassVar = STROptions
    options: STROptions
    family: ClassVar[str] = "learned thresholds"
    source: ClassVar[str] = "Kusupati et al. 2020"

    @classmethod
    def check(cls, config: RunConfig) -> None:
        if config.optimizer.weight_decay == 0:
            raise HarnessError(
                "method.name=str with optimizer.weight_decay=0: nothing but weight decay on s moves STR's thresholds, "
                "so the network would stay dense; give a weight_decay (the authors: 2.25e-5 on ImageNet, 5e-4 on CIFAR)"
            )

    def views(self) -> dict[str, WeightView]:
        return {layer: SoftThreshold(self.options.s_init) for layer in self.shapes}

    def thresholds(self) -> dict[str, SoftThreshold]:
        views = {layer: self.tensors.view(layer) for layer in self.shapes}
        return {layer: view for layer, view in views.items() if isinstance(view, SoftThreshold)}

    @torch.no_grad()
    def gauges(self, step: int) -> dict[str, float]:
        out = super().gauges(step)
        for layer, view in self.thresholds().items():
            out[f"threshold/{layer}"] = float(torch.sigmoid(view.s))
        return out

    @torch.no_grad()
    def outcome(self) -> dict[str, Any]:
        return {"thresholds": {layer: float(torch.sigmoid(view.s)) for layer, view in self.thresholds().items()}}
