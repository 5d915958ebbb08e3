"""Two processes with half a batch each against torch's own batch norm over the whole."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn

from harness.models.norm import AcrossRanks2d, across_ranks
from tests.distributed.processes import run_ranks


@pytest.mark.slow
def test_values_gradients_and_running_statistics() -> None:
    for code, output in run_ranks(3, "tests.models.test_norm"):
        assert code == 0, output[-2000:]
        assert "equal" in output


def test_alone_it_is_torchs_own() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5))
    images = torch.randn(6, 3, 4, 4)
    with torch.no_grad():
        net(images)  # so that it holds values of its own
    state = {name: value.clone() for name, value in net.state_dict().items()}
    expected = net(images)
    other = across_ranks(net)
    assert [type(m).__name__ for m in other if "Ranks" in type(m).__name__] == ["AcrossRanks2d", "AcrossRanks1d"]
    other.load_state_dict(state)
    assert torch.equal(other(images), expected)


def main() -> None:
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    images, slope = torch.randn(7, 3, 4, 4) * 3 + 1, torch.randn(7, 3, 4, 4)
    whole, ours = nn.BatchNorm2d(3), AcrossRanks2d(3)
    mine = slice(*[(0, 1), (1, 4), (4, 7)][rank])  # uneven shares
    part, all_images = images[mine].clone().requires_grad_(), images.clone().requires_grad_()
    expected, found = whole(all_images), ours(part)
    (expected * slope).sum().backward()
    (found * slope[mine]).sum().backward()
    assert world_size == 3
    torch.testing.assert_close(found, expected[mine])
    torch.testing.assert_close(part.grad, all_images.grad[mine])
    for name in ("weight", "bias"):
        total = getattr(ours, name).grad
        dist.all_reduce(total)
        torch.testing.assert_close(total, getattr(whole, name).grad)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(ours, name), getattr(whole, name))
    dist.destroy_process_group()
    print("equal")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
