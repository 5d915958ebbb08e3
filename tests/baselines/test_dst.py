"""The two gradient lines, the penalty and the reset of DST, against its equations (Liu et al. 2020, eq. 3 to 6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from baselines.dst import DST, Threshold
from harness.config import build_config
from harness.errors import HarnessError
from harness.train.job import Job, build_job
from harness.train.loop import take_step
from harness.train.run import execute

SMALL: dict[str, Any] = {
    "model": {"name": "lenet_300_100"},
    "data": {"name": "digits", "batch_size": 64},
    "method": {"name": "dst", "alpha": 5e-4},
    "optimizer": {"lr": 0.1, "nesterov": False, "weight_decay": 0.0},
    "schedule": {"epochs": 4, "law": "constant"},
    "engine": {"device": "cpu"},
}


def job_of(tmp_path: Path, **sections: Any) -> Job:
    return build_job(build_config({**SMALL, **sections}, "test"), 1, tmp_path)


def slope(x: torch.Tensor) -> torch.Tensor:
    """The long-tailed estimate, written as its three pieces."""
    out = torch.zeros_like(x)
    middle, inner = x.abs() <= 1, x.abs() <= 0.4
    out[middle] = 0.4
    out[inner] = 2 - 4 * x.abs()[inner]
    return out


def smooth(x: torch.Tensor) -> torch.Tensor:
    """A function whose derivative is the long-tailed estimate: integrated piece by piece from 0."""
    distance = x.abs()
    inner = 2 * distance - 2 * distance**2
    middle = 0.48 + 0.4 * (distance - 0.4)
    return x.sign() * torch.where(distance <= 0.4, inner, torch.where(distance <= 1, middle, 0.72))


@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 3, 3)])
def test_both_gradient_lines(shape: tuple[int, ...]) -> None:
    """Against the closed form, and against autograd through a step that is smooth backward only."""
    torch.manual_seed(0)
    theta = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    view = Threshold(shape[0], len(shape), decays=True).double()
    with torch.no_grad():
        view.threshold.copy_(torch.rand(shape[0]) * 1.5)
    upstream = torch.randn(shape, dtype=torch.float64)
    effective = view(theta)
    (effective * upstream).sum().backward()

    rows = (-1, *[1] * (len(shape) - 1))
    q, w = (theta.abs() - view.threshold.view(rows)).detach(), theta.detach()
    mask = (q > 0).double()
    assert torch.equal(effective.detach(), w * mask)
    assert theta.grad is not None and view.threshold.grad is not None
    assert torch.allclose(theta.grad, upstream * (mask + w.abs() * slope(q)), atol=1e-12)
    assert torch.allclose(view.threshold.grad, -(upstream * w * slope(q)).flatten(1).sum(1), atol=1e-12)
    assert int(view.n_kept) == int(mask.sum())

    again, t = w.clone().requires_grad_(), view.threshold.detach().clone().requires_grad_()
    surrogate = smooth(again.abs() - t.view(rows))
    (again * (mask + surrogate - surrogate.detach()) * upstream).sum().backward()
    assert again.grad is not None and t.grad is not None
    assert torch.allclose(theta.grad, again.grad, atol=1e-6)
    assert torch.allclose(view.threshold.grad, t.grad, atol=1e-6)


def test_the_step_is_strict_and_its_slope_continuous() -> None:
    view = Threshold(1, 2, decays=True)
    assert view.kept(torch.tensor([[0.0, 1e-9, -1e-9]])).tolist() == [[False, True, True]]
    distances = torch.tensor([0.0, 0.4, -0.41, 1.0, 1.01, -1.01])
    view = Threshold(6, 2, decays=True)
    with torch.no_grad():
        view.threshold.copy_(2 - distances)  # weights of 2 are that far above
    view(torch.full((6, 1), 2.0)).sum().backward()
    assert view.threshold.grad is not None
    assert (-view.threshold.grad / 2).tolist() == pytest.approx([2, 0.4, 0.4, 0.4, 0, 0])


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_the_penalty_is_added_once_per_step(tmp_path: Path, accumulation: int) -> None:
    """With the loss out of the way (no learning rate), the gradient of t is its share of the loss - alpha exp(-t)."""
    engine = {"device": "cpu", "accumulation": accumulation}
    job = job_of(tmp_path, engine=engine)
    alone = job_of(tmp_path, method={"name": "dst", "alpha": 0.0}, engine=engine)
    gradients = []
    for each in (job, alone):
        each.engine.step = lambda lr, skip=False: None  # type: ignore[method-assign]
        take_step(each, 1, next(iter(each.loader.train(1))))
        view = each.engine.view("fc1")
        assert isinstance(view, Threshold)
        gradients.append(each.engine.read_gradient(view.threshold).clone())
    assert torch.allclose(gradients[0] - gradients[1], torch.full((300,), -5e-4), atol=1e-8)


def test_a_dying_layer_is_reset_in_training_only(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    view, theta = job.engine.view("fc1"), job.engine.stored("fc1")
    assert isinstance(view, Threshold)
    with torch.no_grad():
        view.threshold.fill_(float(theta.abs().flatten().kthvalue(theta.numel() - 150).values))  # keeps 150 of 19,200
    assert float(view.kept(theta).double().mean()) < 0.01
    job.engine.model.eval()
    job.engine.model(torch.zeros(1, 1, 8, 8))
    assert bool((view.threshold > 0).all())
    momentum = job.engine.read_slot(view.threshold, "momentum").fill_(0.25).clone()
    job.engine.model.train()
    job.method.before_step(7)
    assert bool((view.threshold == 0).all())
    assert int(view.resets) == 1 and int(view.last_reset) == 7
    assert torch.equal(job.engine.read_slot(view.threshold, "momentum"), momentum)
    other = job.engine.view("fc2")
    assert isinstance(other, Threshold) and int(other.resets) == 0


def test_resets_can_be_turned_off_for_the_end(tmp_path: Path) -> None:
    job = job_of(tmp_path, method={"name": "dst", "reset_off_after": 0.5})
    view = job.engine.view("fc1")
    assert isinstance(view, Threshold)
    half = job.clock.total_steps // 2
    for step, expected in ((half + 1, 0), (half, 1)):
        with torch.no_grad():
            view.threshold.fill_(10.0)
        job.method.before_step(step)
        assert int(view.resets) == expected


def test_thresholds_and_masks_are_fp32_under_bf16(tmp_path: Path) -> None:
    """At t = .05 a step of 5e-7 is lost in bf16; it must not be here."""
    job = job_of(tmp_path, engine={"device": "cpu", "precision": "bf16"}, method={"name": "dst", "alpha": 0.0})
    view, theta = job.engine.view("fc1"), job.engine.stored("fc1")
    assert isinstance(view, Threshold)
    with torch.no_grad():
        view.threshold.fill_(0.05)
        theta.fill_(0.05 + 4e-7)
    assert view.threshold.dtype == torch.float32
    with job.engine.autocast():
        assert view(theta).dtype == torch.float32
        assert int(view.n_kept) == theta.numel()
    with torch.no_grad():
        view.threshold.add_(5e-7)
    with job.engine.autocast():
        view(theta)
    assert int(view.n_kept) == 0


def test_weight_decay_acts_on_thresholds_unless_told_otherwise(tmp_path: Path) -> None:
    for decay in ("all", "weights"):
        for wd_on_t in (True, False):
            job = job_of(
                tmp_path, method={"name": "dst", "wd_on_t": wd_on_t},
                optimizer={"lr": 0.1, "weight_decay": 0.01, "decay": decay},
            )  # fmt: skip
            threshold = job.engine.view("fc1").get_parameter("threshold")
            groups = job.engine.optimizer.param_groups
            (mine,) = [g["weight_decay"] for g in groups if any(p is threshold for p in g["params"])]
            assert mine == (0.01 if wd_on_t else 0.0)


def test_no_decay_on_thresholds_is_remarked_upon(tmp_path: Path) -> None:
    said = "they never settle, so density depends on the length of training"
    for wd, wd_on_t, expected in ((0.0, True, True), (1e-4, False, True), (1e-4, True, False)):
        config = build_config(
            {**SMALL, "method": {"name": "dst", "wd_on_t": wd_on_t}, "optimizer": {"weight_decay": wd}}, "test"
        )
        assert (said in " ".join(DST.remarks(config))) == expected


def test_density_comes_out_and_is_reported(tmp_path: Path) -> None:
    result = list(execute(build_config({**SMALL, "method": {"name": "dst", "alpha": 0.01}}, "test"), 1, tmp_path))[-1]
    kept = sum(layer["n_active"] for layer in result["layers"])
    assert 0 < kept < result["n_weights"]
    assert result["density"] == kept / result["n_weights"]
    assert result["emergent"]
    assert "no weight decay on thresholds" in result["remarks"][0]
    dense = 6 * result["steps"] * result["n_weights"]
    assert 2 * dense / 6 < result["train_flops"] / 64 < dense


def test_a_density_cannot_be_asked_for() -> None:
    with pytest.raises(HarnessError, match=r"density"):
        build_config({**SMALL, "method": {"name": "dst", "density": 0.1}}, "test")


def test_both_denominators_where_a_layer_is_left_out(tmp_path: Path) -> None:
    """The authors leave the LSTM's classifier dense and out of their count; ours of all weights stands beside it."""
    method = {"name": "dst", "alpha": 0.01, "keep_dense": ["classifier"]}
    config = build_config({**SMALL, "method": method, "model": {"name": "lstm", "width": 16}}, "test")
    result = list(execute(config, 1, tmp_path))[-1]
    assert [layer["name"] for layer in result["layers"]] == [
        f"cell{c}.{on}.{gate}" for c in (1, 2) for on in ("on_input", "on_state") for gate in "ifgo"
    ]
    n_masked = 4 * 16 * (8 + 16) + 4 * 16 * (16 + 16)
    assert (result["n_weights"], result["n_exempt_weights"], result["n_method_parameters"]) == (n_masked, 160, 16 * 16)
    assert result["density"] == result["n_active"] / n_masked
    assert result["density_with_exempt"] == (result["n_active"] + 160) / (n_masked + 160)
    assert result["inference_macs"] == 8 * result["n_active"] + 160  # eight rows, then the classifier once


def test_layers_are_left_out_by_pattern(tmp_path: Path) -> None:
    job = job_of(
        tmp_path, model={"name": "resnet18", "width": 4}, method={"name": "dst", "keep_dense": ["*.shortcut.*"]}
    )
    assert not [layer for layer in job.method.shapes if "shortcut" in layer]
    assert len(job.method.shapes) == 1 + 16 + 1


def test_a_layer_that_is_not_there_cannot_be_left_out(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="no layer 'head'; the maskable layers: fc1, fc2, classifier"):
        job_of(tmp_path, method={"name": "dst", "keep_dense": ["head"]})
