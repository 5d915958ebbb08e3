"""What a run costs: inference MACs and training FLOPs from the masks as they are, step by step.

A weight of a convolution multiplies once per output position, whether its module computes it or another one borrows it.
Counted: convolutions, linear layers, and the dense hyper-networks of activations while they are there. Not counted:
normalisation and elementwise work. One MAC is two FLOPs. (Conventions of Evci et al. 2020, appendix.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from harness.sparse.masks import maskable_modules


@dataclass(frozen=True, slots=True)
class Geometry:
    """How often each weight is used per image. Depends on the architecture and the image size, not on masks."""

    positions: dict[str, int]
    """Output positions per layer, summed over every use of its weight."""

    uses: dict[str, int]
    """Modules that compute with a layer's weight: its own, and those that borrow it."""

    dense_macs: int
    """Per image, of layers outside the density count (DyReLU's hyper-networks)."""

    def macs(self, n_weights: Mapping[str, int]) -> int:
        """Multiply-adds of one image through a network with this many active weights per layer."""
        return sum(n_weights[name] * self.positions[name] for name in self.positions) + self.dense_macs

    def used_connections(self, n_weights: Mapping[str, int]) -> int:
        return sum(n_weights[name] * self.uses[name] for name in self.uses)


@torch.no_grad()
def measure(model: nn.Module, channels: int, size: int) -> Geometry:
    """Count by running one image of zeros through the model; its statistics and mode are left as they were."""
    names = {id(module): name for name, module in maskable_modules(model).items()}
    positions, uses = dict.fromkeys(names.values(), 0), dict.fromkeys(names.values(), 0)
    dense_macs = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        nonlocal dense_macs
        if callable(uses_of := getattr(module, "weight_uses", None)):
            for used, n_positions in uses_of(*inputs):
                if id(used) in names:
                    positions[names[id(used)]] += n_positions
                    uses[names[id(used)]] += 1
                else:
                    dense_macs += used.weight.numel() * n_positions
            return
        owner = getattr(module, "donor", module)
        n_positions = out[0].numel() // out.shape[1]
        if id(owner) in names:
            positions[names[id(owner)]] += n_positions
            uses[names[id(owner)]] += 1
        elif isinstance(module, nn.Conv2d | nn.Linear):
            dense_macs += module.weight.numel() * n_positions

    borrowing = ("donor", "weight_uses")
    counted = [
        m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear) or any(hasattr(m, b) for b in borrowing)
    ]
    hooks = [module.register_forward_hook(count) for module in counted]
    was_training = model.training
    model.eval()
    parameter = next(model.parameters())
    model(torch.zeros(1, channels, size, size, device=parameter.device))
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    return Geometry(positions, uses, dense_macs)


class Ledger:
    """Training FLOPs so far. `geometry` and `n_active` are renewed when the architecture or the masks change.

    dense_forward: every weight multiplies in the forward pass, whatever the mask (a fixed dense part beside it).
    """

    def __init__(
        self, geometry: Geometry, sizes: Mapping[str, int], device: torch.device, dense_forward: bool = False
    ) -> None:
        self.geometry, self.sizes, self.dense_forward = geometry, dict(sizes), dense_forward
        self.n_active = dict(sizes)
        # on the device, as counts of masks that change with every step are: nothing is waited for
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        self._placed: tuple[Geometry, torch.Tensor] | None = None

    def add(
        self,
        n_images: int,
        trained: Mapping[str, int] | None = None,
        counted: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """One step: forward, gradient of inputs, gradient of weights.

        trained: weights per layer whose gradient is computed, where they are others than the active ones.
        counted: active weights per layer in this step, where they differ from step to step.
        """
        sparse: int | torch.Tensor
        if self.dense_forward:
            sparse = self.geometry.macs(self.sizes)
        elif counted is not None:
            sparse = (torch.stack(list(counted.values())) * self._positions(tuple(counted))).sum()
            sparse = sparse + self.geometry.dense_macs
        else:
            sparse = self.geometry.macs(self.n_active)
        weights: int | torch.Tensor
        if trained is not None:
            weights = self.geometry.macs(trained)
        else:
            weights = self.geometry.macs(self.n_active) if self.dense_forward else sparse
        self.total += 2.0 * n_images * (2 * sparse + weights)

    def _positions(self, names: tuple[str, ...]) -> torch.Tensor:
        if self._placed is None or self._placed[0] is not self.geometry:
            values = [self.geometry.positions[name] for name in names]
            self._placed = self.geometry, torch.tensor(values, device=self.total.device)
        return self._placed[1]

    @property
    def train_flops(self) -> float:
        return float(self.total)

    @property
    def inference_macs(self) -> int:
        return self.geometry.macs(self.sizes if self.dense_forward else self.n_active)
