"""Batch norm over the batch of all ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SumOverRanks(torch.autograd.Function):
    """Every rank's part enters every rank's sum, so a gradient is the sum of all ranks' too."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class AcrossRanks(nn.modules.batchnorm._BatchNorm):
    """While training, mean and variance are of all ranks' images; torch's own form of this is for GPUs alone."""

    alone = False
    """Whether this rank holds all images, and no other computes the network with it."""

    def forward(self, x: Tensor) -> Tensor:
        if self.alone or not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        dims = [0, *range(2, x.dim())]
        shape = [1, -1, *(1,) * (x.dim() - 2)]
        local = x.float()
        n = _SumOverRanks.apply(x.new_tensor(x.numel() // x.shape[1], dtype=local.dtype))
        mean = _SumOverRanks.apply(local.sum(dims)) / n
        centred = local - mean.view(shape)
        variance = _SumOverRanks.apply(centred.square().sum(dims)) / n
        self._follow(mean.detach(), variance.detach() * n / (n - 1).clamp(min=1))
        out = centred * (variance + self.eps).rsqrt().view(shape)
        return (out * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)


class AcrossRanks1d(AcrossRanks, nn.BatchNorm1d):
    pass


class AcrossRanks2d(AcrossRanks, nn.BatchNorm2d):
    pass


def across_ranks(model: nn.Module) -> nn.Module:
    """Every batch norm of a network replaced by one over all ranks, with its values."""
    for name, child in model.named_children():
        kind = AcrossRanks1d if isinstance(child, nn.BatchNorm1d) else AcrossRanks2d
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            norm = kind(child.num_features, child.eps, child.momentum)
            norm.load_state_dict(child.state_dict())
            setattr(model, name, norm)
        else:
            across_ranks(child)
    return model


def on_one_rank(model: nn.Module) -> nn.Module:
    """The network as one rank computes it that waits for no other."""
    for module in model.modules():
        if isinstance(module, AcrossRanks):
            module.alone = True
    return model
