from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from harness.config import build_config
from harness.sparse.connectivity import connectivity
from harness.train.checks import current_masks
from harness.train.job import build_job


def perceptron(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def as_mask(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool)


def test_by_hand() -> None:
    """Two inputs, three hidden units, two logits. Unit 0 has no output, unit 1 has both sides, unit 2 no input."""
    masks = {"1": as_mask([[1, 0], [1, 1], [0, 0]]), "3": as_mask([[0, 1, 0], [0, 0, 1]])}
    found = connectivity(perceptron(2, 3, 2), masks, (1, 1, 2))
    assert (found.n_live, found.n_active) == (3, 5)
    assert found.empty_layers == ()
    assert (found.n_units, found.n_without_input, found.n_without_output) == (5, 2, 1)  # logit 1 has nothing before it
    assert found.live_fraction == 0.6


def test_an_empty_layer_disconnects_everything() -> None:
    masks = {"1": as_mask([[1, 1], [1, 1], [1, 1]]), "3": as_mask([[0, 0, 0], [0, 0, 0]])}
    found = connectivity(perceptron(2, 3, 2), masks, (1, 1, 2))
    assert (found.n_live, found.live_fraction, found.empty_layers) == (0, 0.0, ("3",))
    assert (found.n_without_input, found.n_without_output) == (2, 3)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_against_counting_paths(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=5))
    masks = {
        str(1 + 2 * i): torch.tensor(
            data.draw(st.lists(st.booleans(), min_size=a * b, max_size=a * b)), dtype=torch.bool
        ).view(b, a)
        for i, (a, b) in enumerate(itertools.pairwise(sizes))
    }  # fmt: skip
    reached = [torch.ones(sizes[0], dtype=torch.bool)]
    for mask in masks.values():
        reached.append((mask & reached[-1]).any(1))
    leads = [torch.ones(sizes[-1], dtype=torch.bool)]
    for mask in reversed(masks.values()):
        leads.insert(0, (mask & leads[0][:, None]).any(0))
    live = sum(
        int((mask & reached[i] & leads[i + 1][:, None]).sum()) for i, mask in enumerate(masks.values())
    )  # fmt: skip
    assert connectivity(perceptron(*sizes), masks, (1, 1, sizes[0])).n_live == live


@pytest.mark.parametrize(
    ("model", "method", "whole"),
    [
        ({"name": "resnet34", "width": 8}, {"name": "dense"}, False),  # corners of kernels that only ever see padding
        ({"name": "resnet34", "width": 8}, {"name": "static", "density": 0.2}, False),
        ({"name": "resnet18", "width": 8, "norm": "group"}, {"name": "static", "density": 0.5}, False),
        ({"name": "resnet34", "width": 8}, {"name": "east", "density": 0.2, "interval": 5, "cyclic": None,
                                          "dyrelu": {"start_epoch": 1, "end_epoch": 2}}, False),
        ({"name": "lenet_300_100"}, {"name": "static", "density": 0.5}, True),
        ({"name": "lenet_300_100"}, {"name": "dst", "keep_dense": ["classifier"]}, True),
        ({"name": "lstm", "width": 16}, {"name": "static", "density": 0.5}, True),
    ],
)  # fmt: skip
def test_real_networks(model: dict[str, object], method: dict[str, object], whole: bool) -> None:
    plain = {"model": model, "data": {"name": "digits"}, "method": method, "schedule": {"epochs": 4}, "engine": {"device": "cpu"}}  # fmt: skip  # noqa: E501
    job = build_job(build_config(plain, "test"), 0, Path("unused"))
    before = {k: v.clone() for k, v in job.engine.model.state_dict().items()}
    masks = current_masks(job.engine)
    found = connectivity(job.engine.model, masks, (1, 8, 8))
    assert found.n_active == (sum(int(m.sum()) for m in masks.values()) or job.method.n_weights)
    assert 0.1 < found.live_fraction <= 1
    assert not whole or found.live_fraction > 0.9
    assert all(torch.equal(v, before[k]) for k, v in job.engine.model.state_dict().items())


def test_random_masks_at_ten_thousandths_are_disconnected_before_training() -> None:
    """ResNet-34, ERK, 99.99 % sparse: no weight lies on a path."""
    plain = {
        "model": {"name": "resnet34", "width": 64}, "data": {"name": "synthetic", "image_size": 32},
        "method": {"name": "static", "density": 0.0001}, "schedule": {"steps": 2}, "engine": {"device": "cpu"},
    }  # fmt: skip
    for seed in range(2):
        job = build_job(build_config(plain, "test"), seed, Path("unused"))
        found = connectivity(job.engine.model, current_masks(job.engine), (3, 32, 32))
        assert found.n_live == 0
        assert found.n_active > 2000
