"""Weights as the network sees them: theta * mask, through torch's own parametrization, and the digest of masks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class _StraightThrough(torch.autograd.Function):
    """theta * mask forward, the gradient of every position backward."""

    @staticmethod
    def forward(theta: Tensor, mask: Tensor) -> Tensor:
        return theta * mask

    @staticmethod
    def setup_context(ctx: object, inputs: object, output: object) -> None:
        return None

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class MaskedWeight(nn.Module):
    """Effective weight theta * mask.

    The gradient rule is explicit: 'masked' is what autograd gives, zero where the mask is zero; 'dense' passes the
    gradient of every position on, which growth by gradient and clipping over dense gradients need.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.dense_gradient = False

    def forward(self, theta: Tensor) -> Tensor:
        if self.dense_gradient and torch.is_grad_enabled():
            return _StraightThrough.apply(theta, self.mask)
        return theta * self.mask


Maskable = nn.Conv2d | nn.Linear


def maskable_modules(model: nn.Module) -> dict[str, Maskable]:
    """Every convolution and linear layer by name, but those inside a module that says ``maskable = False``."""
    exempt = {id(inner) for m in model.modules() if getattr(m, "maskable", True) is False for inner in m.modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Maskable) and id(module) not in exempt
    }


def maskable_shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: module.weight.shape for name, module in maskable_modules(model).items()}


def install_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Put a MaskedWeight on each named layer and zero the stored weights outside the mask."""
    modules = maskable_modules(model)
    for name, mask in masks.items():
        module = modules[name]
        device = module.weight.device
        with torch.no_grad():
            module.weight.mul_(mask.to(device))
        parametrize.register_parametrization(module, "weight", MaskedWeight(mask.to(device)), unsafe=True)


def stored_weight(module: Maskable) -> tuple[nn.Parameter, MaskedWeight | None]:
    """The trained parameter behind a layer's effective weight, and its mask module, None where the layer is dense."""
    if not parametrize.is_parametrized(module, "weight"):
        return cast(nn.Parameter, module.weight), None
    chain: Any = module.parametrizations["weight"]  # type: ignore[index]
    return chain.original, chain[0]


def masked_layers(model: nn.Module) -> dict[str, tuple[nn.Parameter, MaskedWeight]]:
    """Stored parameter and mask module of each masked layer, by layer name."""
    found = {name: stored_weight(module) for name, module in maskable_modules(model).items()}
    return {name: (parameter, masked) for name, (parameter, masked) in found.items() if masked is not None}


def digest(masks: Mapping[str, Tensor]) -> dict[str, int]:
    """63 bits per layer over shape and content of its mask; equal masks have equal digests on every machine."""
    out = {}
    for name, mask in masks.items():
        packed = np.packbits(mask.detach().cpu().numpy().reshape(-1))
        h = hashlib.blake2b(packed.tobytes(), digest_size=8, key=str(tuple(mask.shape)).encode())
        out[name] = int.from_bytes(h.digest(), "big") >> 1
    return out
