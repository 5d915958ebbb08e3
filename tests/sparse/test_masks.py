from __future__ import annotations

import torch
from torch import nn

from harness.sparse.masks import MaskedWeight, digest, install_views, maskable_modules, viewed_layers


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def checkerboard(shape: tuple[int, int]) -> torch.Tensor:
    return (torch.arange(shape[0] * shape[1]) % 2 == 0).view(shape)


def test_the_network_sees_theta_times_mask() -> None:
    net = small_net()
    dense = net[0].weight.detach().clone()
    install_views(net, {"0": MaskedWeight(checkerboard((3, 4)))})
    assert torch.equal(net[0].weight, dense * checkerboard((3, 4)))
    assert list(viewed_layers(net)) == ["0"]


def test_the_gradient_rule_is_explicit() -> None:
    net, mask = small_net(), checkerboard((3, 4))
    install_views(net, {"0": MaskedWeight(mask)})
    parameter, masked = viewed_layers(net)["0"]
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    net[0](x).square().sum().backward()
    masked_gradient = parameter.grad.clone()
    parameter.grad = None
    masked.dense_gradient = True
    net[0](x).square().sum().backward()
    assert (masked_gradient[~mask] == 0).all()
    assert torch.equal(parameter.grad * mask, masked_gradient)
    assert (parameter.grad[~mask] != 0).any()


def test_modules_may_be_exempt() -> None:
    class Exempt(nn.Module):
        maskable = False

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)

    assert list(maskable_modules(nn.Sequential(nn.Linear(2, 2), Exempt()))) == ["0"]


def test_digests_tell_content_and_shape_apart() -> None:
    mask = checkerboard((3, 4))
    flipped = mask.clone()
    flipped[2, 3] = ~flipped[2, 3]
    assert digest({"a": mask}) == digest({"a": mask.clone()})
    assert digest({"a": mask}) != digest({"a": flipped})
    assert digest({"a": mask}) != digest({"a": mask.view(4, 3)})
