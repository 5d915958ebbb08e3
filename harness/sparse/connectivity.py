"""Which weights can matter at all: those on some path of kept weights from the image to a logit."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from harness.sparse.masks import Maskable, maskable_modules


@dataclass(frozen=True, slots=True)
class Connectivity:
    n_live: int
    """Kept weights on a path from the image to a logit. Two weights on one path are two."""

    n_active: int
    empty_layers: tuple[str, ...]
    n_units: int
    """Filters and neurons of the layers that have masks."""

    n_without_input: int
    """Units that no path from the image reaches."""

    n_without_output: int
    """Units from which no path leads to a logit."""

    @property
    def live_fraction(self) -> float:
        return self.n_live / self.n_active if self.n_active else 0.0


def connectivity(model: nn.Module, masks: Mapping[str, Tensor], shape: tuple[int, int, int]) -> Connectivity:
    """One pass, forward and back, of an image of ones through a copy with every kept weight positive, normalisation the
    identity, and all else zero: a gradient is not zero exactly where there is a path.

    masks: by layer; a layer without one is whole. shape: channels, height, width of an image.
    """
    network = copy.deepcopy(model).double().eval()
    modules, kept = maskable_modules(network), set[int]()
    whole = {name: torch.ones(module.weight.shape, dtype=torch.bool) for name, module in modules.items()}
    masks = {name: masks.get(name, whole[name]) for name in modules}
    for name, maskable in modules.items():
        if parametrize.is_parametrized(maskable, "weight"):
            parametrize.remove_parametrizations(maskable, "weight", leave_parametrized=False)
        kept.add(id(set_weight(maskable, masks[name].to(maskable.weight))))
    inside = {
        id(inner)
        for m in network.modules() if getattr(m, "maskable", True) is False
        for inner in m.modules() if inner is not m
    }  # fmt: skip
    for module in network.modules():
        if isinstance(module, Maskable) and getattr(module, "maskable", True) is False and id(module) not in inside:
            kept.add(id(set_weight(module, torch.ones_like(module.weight))))  # stays dense, and paths lead through it
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in kept:
                norm = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm) and name == "weight"
                parameter.data = torch.full_like(parameter, float(norm or name == "sigma"))
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
    image = torch.ones(1, *shape, dtype=torch.float64, device=next(network.parameters()).device)
    reached, gradients, _ = passed(network, modules, image, lift=0.0)
    _, _, leading = passed(network, modules, image, lift=1.0)  # a unit that nothing reaches must not stop what is asked
    live = sum(int(((gradients[name] != 0) & masks[name].to(image.device)).sum()) for name in modules)
    return Connectivity(
        n_live=live, n_active=sum(int(m.sum()) for m in masks.values()),
        empty_layers=tuple(n for n, m in masks.items() if not bool(m.any())),
        n_units=sum(units.numel() for units in reached.values()),
        n_without_input=sum(int((~units).sum()) for units in reached.values()),
        n_without_output=sum(int((~units).sum()) for units in leading.values()),
    )  # fmt: skip


def passed(
    network: nn.Module, modules: Mapping[str, Maskable], image: Tensor, lift: float
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Which units have a positive value, the gradient of every weight, and which units have a gradient.

    lift: added to the output of every layer. Layers that are never called, as those of an LSTM, have no units here.
    """
    outputs: dict[str, Tensor] = {}

    def keeper(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            outputs[name] = output + lift
            return outputs[name]

        return hook

    hooks = [module.register_forward_hook(keeper(name)) for name, module in modules.items()]
    total = network(image).sum()
    for hook in hooks:
        hook.remove()
    asked = [*(module.weight for module in modules.values()), *outputs.values()]
    found = torch.autograd.grad(total, asked, allow_unused=True)
    filled = [torch.zeros_like(t) if g is None else g for t, g in zip(asked, found, strict=True)]
    weights = dict(zip(modules, filled, strict=False))
    at_outputs = dict(zip(outputs, filled[len(modules) :], strict=True))
    return (
        {n: per_unit(t.detach()) for n, t in outputs.items()},
        weights,
        {n: per_unit(t) for n, t in at_outputs.items()},
    )


def per_unit(values: Tensor) -> Tensor:
    """Whether anything of a unit is not zero: [1, units, ...] to [units]."""
    return values.transpose(0, 1).flatten(1).ne(0).any(1)


def set_weight(module: Maskable, ones: Tensor) -> nn.Parameter:
    """Positive weights that keep the largest output at the size of the largest input."""
    most = ones.flatten(1).sum(1).max().clamp(min=1)
    module.weight = nn.Parameter(ones / most)
    return module.weight
