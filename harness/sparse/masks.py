"""Weights as the network sees them: a function of the stored weight, through torch's own parametrization."""

from __future__ import annotations

import fnmatch
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from harness.errors import HarnessError


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """values * mask; as bytes, which a CPU multiplies by in little more than half the time of booleans."""
    return values * mask.view(torch.uint8)


class _StraightThrough(torch.autograd.Function):
    """theta * mask forward; backward the gradient of the positions in `trained`, of all where it is None."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, mask: Tensor, trained: Tensor | None) -> Tensor:
        ctx.trained = trained
        return masked(theta, mask)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] if ctx.trained is None else masked(gradients[0], ctx.trained), None, None


class WeightView(nn.Module, ABC):
    """A layer's weight as the network sees it: a function of the stored weight theta and of what is kept beside it.

    Its parameters (learned thresholds) are trained with the network; its buffers are a method's state for this layer.
    Both are in every checkpoint.
    """

    keeps_nothing_hidden: ClassVar[bool] = False
    """Whether stored weights outside the mask are zero too."""

    own_parameters_decay: bool = True
    """Whether weight decay acts on the view's own parameters as it does on weights."""

    def prepare(self, theta: Tensor) -> None:
        """Change the stored weight, in place, before the first step."""

    @abstractmethod
    def kept(self, theta: Tensor) -> Tensor:
        """The mask: boolean, the positions that take part."""

    def sparse_part(self, theta: Tensor) -> Tensor:
        """What is counted: the effective weight, but for a fixed part that a method may add to it."""
        effective: Tensor = self(theta)
        return effective


class MaskedWeight(WeightView):
    """Effective weight theta * mask.

    The gradient rule is explicit: 'masked' is what autograd gives, zero where the mask is zero; 'dense' passes the
    gradient of every position on, which growth by gradient and clipping over dense gradients need.
    """

    keeps_nothing_hidden: ClassVar[bool] = True
    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.dense_gradient: bool | Tensor = False
        """Whether every position's gradient is passed on; a tensor where compiled code must not be compiled again."""

    def prepare(self, theta: Tensor) -> None:
        theta.mul_(self.mask)

    def kept(self, theta: Tensor) -> Tensor:
        return self.mask

    def take(self, new: Tensor) -> None:
        """The mask from now on. In place: programs and buckets that hold the buffer stay valid."""
        self.mask.copy_(new)

    def survivors(self, new: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Where weight and optimizer state outlive a change to mask `new`, zero elsewhere; None: everywhere."""
        stays = self.mask & new
        return stays, stays

    def trained(self) -> Tensor | None:
        """Positions that the gradient reaches under the rule 'masked'; None: all."""
        return self.mask

    def forward(self, theta: Tensor) -> Tensor:
        reached = self.trained()
        if isinstance(self.dense_gradient, Tensor):
            reached = None if reached is None else reached | self.dense_gradient
        elif self.dense_gradient:
            reached = None
        if reached is self.mask or not torch.is_grad_enabled():
            return masked(theta, self.mask)
        return _StraightThrough.apply(theta, self.mask, reached)


class HiddenWeight(MaskedWeight):
    """Weights outside the mask keep their value and their optimizer state, and can return with them.

    trains_all: they are also trained, by the gradient that the effective weight has at their positions.
    """

    keeps_nothing_hidden: ClassVar[bool] = False

    def __init__(self, mask: Tensor, trains_all: bool) -> None:
        super().__init__(mask)
        self.trains_all = trains_all

    def prepare(self, theta: Tensor) -> None:
        return None

    def survivors(self, new: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return None, None

    def trained(self) -> Tensor | None:
        return None if self.trains_all else self.mask


Maskable = nn.Conv2d | nn.Linear


def maskable_modules(model: nn.Module) -> dict[str, Maskable]:
    """Every convolution and linear layer by name, but those inside a module that says ``maskable = False``."""
    exempt = {id(inner) for m in model.modules() if getattr(m, "maskable", True) is False for inner in m.modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Maskable) and id(module) not in exempt
    }


def exempt_layers(model: nn.Module, names: Sequence[str]) -> None:
    """Take layers out of what is maskable, by name or by a pattern such as '*.shortcut.*'."""
    modules = maskable_modules(model)
    for name in names:
        found = fnmatch.filter(modules, name)
        if not found:
            raise HarnessError(f"method.keep_dense: no layer '{name}'; the maskable layers: {', '.join(modules)}")
        for layer in found:
            modules[layer].maskable = False  # type: ignore[assignment]


def maskable_shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: module.weight.shape for name, module in maskable_modules(model).items()}


class LearnedMask(WeightView, ABC):
    """A view whose mask follows from trained values, anew in every forward pass."""

    n_kept: Tensor
    """Positions kept in the last forward pass, an integer on the device."""


def install_views(model: nn.Module, views: Mapping[str, WeightView]) -> None:
    """Let the network see each named layer's weight through its view."""
    modules = maskable_modules(model)
    for name, view in views.items():
        module = modules[name]
        view.to(module.weight.device)
        with torch.no_grad():
            view.prepare(module.weight)
        parametrize.register_parametrization(module, "weight", view, unsafe=True)


def stored_weight(module: Maskable) -> tuple[nn.Parameter, WeightView | None]:
    """The trained parameter behind a layer's effective weight, and its view, None where the layer is dense."""
    if not parametrize.is_parametrized(module, "weight"):
        return cast(nn.Parameter, module.weight), None
    chain: Any = module.parametrizations["weight"]  # type: ignore[index]
    return chain.original, chain[0]


def viewed_layers(model: nn.Module) -> dict[str, tuple[nn.Parameter, WeightView]]:
    """Stored parameter and view of each layer that has one, by layer name."""
    found = {name: stored_weight(module) for name, module in maskable_modules(model).items()}
    return {name: (parameter, view) for name, (parameter, view) in found.items() if view is not None}


def counts(masks: Mapping[str, Tensor]) -> dict[str, int]:
    """Entries of each mask. A GPU is waited for once, not once for each; on a CPU numpy counts bytes much faster."""
    if all(mask.device.type == "cpu" for mask in masks.values()):
        return {name: int(np.count_nonzero(mask.numpy())) for name, mask in masks.items()}
    numbers = torch.stack([torch.count_nonzero(mask) for mask in masks.values()]).tolist()
    return dict(zip(masks, numbers, strict=True))


def digest(masks: Mapping[str, Tensor]) -> dict[str, int]:
    """63 bits per layer over shape and content of its mask; equal masks have equal digests on every machine."""
    out = {}
    for name, mask in masks.items():
        packed = np.packbits(mask.detach().cpu().numpy().reshape(-1))
        h = hashlib.blake2b(packed.tobytes(), digest_size=8, key=str(tuple(mask.shape)).encode())
        out[name] = int.from_bytes(h.digest(), "big") >> 1
    return out
