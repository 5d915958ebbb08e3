"""Whole runs in this process, on a network small enough to take a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from harness.config import build_config, run_id
from harness.errors import CheckFailed, Diverged, HarnessError
from harness.track.record import read_events, read_result
from harness.train.checks import check_counts
from harness.train.job import build_job, choose_device
from harness.train.loop import Meter, Progress, update_topology
from harness.train.run import execute

SMALL: dict[str, Any] = {
    "model": {"name": "lenet_300_100"},
    "data": {"name": "digits", "batch_size": 128},
    "method": {"name": "rigl", "density": 0.1, "interval": 5, "style": "append"},
    "optimizer": {"lr": 0.3},
    "schedule": {"epochs": 8},
    "evaluation": {"every_epochs": 2},
    "engine": {"device": "cpu"},
}


def run(out: Path, **sections: Any) -> dict[str, Any]:
    return list(execute(build_config({**SMALL, **sections}, "test"), 1, out))[-1]


def test_a_run_leaves_a_whole_result(tmp_path: Path) -> None:
    result = run(tmp_path)
    run_dir = tmp_path / result["run_id"]
    assert result["status"] == "done"
    assert result["n_weights"] == 64 * 300 + 300 * 100 + 100 * 10
    assert result["n_active"] == round(0.1 * result["n_weights"]) == sum(x["n_active"] for x in result["layers"])
    assert result["n_nonzero"] <= result["n_active"]
    assert result["inference_macs"] == result["used_connections"] == result["n_active"]  # linear layers
    # RigL: 80 steps over 1,199 images an epoch, 11 of them (every fifth before step 60) with a dense gradient
    assert 6 * 8 * 1199 * 5020 < result["train_flops"] < 2 * 8 * 1199 * (2 * 5020 + 50200)
    assert (result["n_norm_parameters"], result["n_sigma"], result["n_other_parameters"]) == (0, 0, 410)
    assert result["test_accuracy_last"] > 0.8
    assert 0 < result["test_accuracy_best"] <= 1
    for key in ("run_id", "method", "model", "data", "seed", "density", "val_accuracy_last", "train_seconds",
                "images_per_second", "device", "engine", "versions", "git_commit"):  # fmt: skip
        assert key in result, key
    masks = load_file(run_dir / "masks.safetensors")
    assert {name: int(m.sum()) for name, m in masks.items()} == {x["name"]: x["n_active"] for x in result["layers"]}
    assert sorted(p.name for p in run_dir.iterdir() if not p.name.startswith(".")) == [
        "config.yaml", "masks.safetensors", "record.jsonl", "result.json", "weights.safetensors"
    ]  # fmt: skip
    events = [event["event"] for event in read_events(run_dir)]
    assert events == ["start", "evaluation", "evaluation", "evaluation", "evaluation", "end"]


def test_doing_it_twice_equals_doing_it_once(tmp_path: Path) -> None:
    first = run(tmp_path)
    record = (tmp_path / first["run_id"] / "record.jsonl").read_bytes()
    assert run(tmp_path) == first
    assert (tmp_path / first["run_id"] / "record.jsonl").read_bytes() == record


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    config = build_config(SMALL, "test")
    here, there = (list(execute(config, 1, tmp_path / place))[-1] for place in "ab")
    other = list(execute(config, 2, tmp_path / "a"))[-1]
    assert here["train_loss_last"] == there["train_loss_last"]
    assert here["layers"] == there["layers"]
    assert other["train_loss_last"] != here["train_loss_last"]


@pytest.mark.parametrize("option", [
    {"ema_decay": 0.9}, {"label_smoothing": 0.1}, {"decay": "weights"}, {"momentum": 0.0, "nesterov": False},
    {"clip_norm": 1.0, "clip_rule": "dense"},
])  # fmt: skip
def test_optimizer_options_train(tmp_path: Path, option: dict[str, Any]) -> None:
    result = run(tmp_path, optimizer={"lr": 0.3, **option})
    assert result["test_accuracy_last"] > 0.4
    assert result["n_active"] == 5020


def test_bf16_is_another_run(tmp_path: Path) -> None:
    full, half = run(tmp_path), run(tmp_path, engine={"device": "cpu", "precision": "bf16"})
    assert full["run_id"] != half["run_id"]
    assert half["test_accuracy_last"] == pytest.approx(full["test_accuracy_last"], abs=0.06)


def test_a_loss_that_is_not_finite_stops_with_the_step(tmp_path: Path) -> None:
    config = build_config({**SMALL, "method": {"name": "static", "density": 0.1}, "optimizer": {"lr": 1e6}}, "test")
    with pytest.raises(Diverged, match=r"the loss is not finite at step \d+; last good: nothing evaluated before"):
        list(execute(config, 1, tmp_path))
    result = read_result(tmp_path / run_id(config, 1))
    assert result is not None
    assert result["status"] == "diverged"
    assert "not finite" in result["reason"]


def test_a_divergence_met_in_a_topology_update_is_one_too(tmp_path: Path) -> None:
    config = build_config({**SMALL, "optimizer": {"lr": 1e30}}, "test")
    with pytest.raises(Diverged, match="not finite at step"):
        list(execute(config, 1, tmp_path))


def test_a_method_that_writes_past_its_budget_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = build_job(build_config(SMALL, "test"), 1, tmp_path)
    greedy = {"fc1": torch.ones(300, 64, dtype=torch.bool)}
    monkeypatch.setattr(job.method, "new_masks", lambda step: greedy)
    with pytest.raises(CheckFailed, match=r"step 5, layer fc1: 19200 active weights, its budget is \d+"):
        update_topology(job, 5)


def test_a_weight_outside_the_mask_is_seen(tmp_path: Path) -> None:
    job = build_job(build_config(SMALL, "test"), 1, tmp_path)
    masked = job.engine.layers["fc1"][1]
    masked.forward = lambda theta: theta + 1.0  # type: ignore[method-assign]
    with pytest.raises(CheckFailed, match="layer fc1: an effective weight outside the mask is not zero"):
        check_counts(job.engine.model, job.method, 0)


def test_impossible_budgets_leave_no_run(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"a budget of 1 weights is below one weight for each of 3 layers"):
        run(tmp_path, method={"name": "static", "density": 1e-5})


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(HarnessError, match="a GPU was asked for"):
        choose_device("cuda", 0)
    assert choose_device("auto", 0).type == "cpu"


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    config = build_config(SMALL, "test")
    first = execute(config, 1, tmp_path)
    next(first)
    with pytest.raises(HarnessError, match="another process is training"):
        next(execute(config, 1, tmp_path))
    first.close()
    assert list(execute(config, 1, tmp_path))[-1]["status"] == "done"


def test_east_ends_without_dyrelu_in_weights_and_result(tmp_path: Path) -> None:
    result = run(
        tmp_path,
        model={"name": "resnet34", "width": 4},
        method={"name": "east", "density": 0.02, "interval": 4, "dyrelu": {"start_epoch": 1, "end_epoch": 3},
                "cyclic": {"n_cycles": 1, "cycle_epochs": 2, "interval": 4}},
        schedule={"steps": 40},
        evaluation={"every_epochs": 1},
    )  # fmt: skip
    weights = load_file(tmp_path / result["run_id"] / "weights.safetensors")
    assert not [name for name in weights if "squeeze" in name or "excite" in name]
    assert len([name for name in weights if "sigma" in name]) == 16
    assert result["n_weights"] > sum(torch.Size(x["shape"]).numel() for x in result["layers"])
    assert result["n_active"] == round(0.02 * result["n_weights"])
    assert result["n_sigma"] == 16
    assert result["n_other_parameters"] == 0
    assert result["used_connections"] > result["n_active"]
    lines = [json.loads(x) for x in (tmp_path / result["run_id"] / "record.jsonl").read_text().splitlines()]
    assert [x["dyrelu_beta"] for x in lines if x["event"] == "evaluation"] == [1.0, 0.5, 0.0, 0.0]


def test_losses_are_summed_in_order_however_many_and_the_first_bad_step_is_named(tmp_path: Path) -> None:
    meter, losses = Meter(torch.device("cpu")), torch.rand(2 * Meter.KEPT + 300)
    expected = 0.5
    meter.resume(Progress(step=40, window_loss=0.5, window_images=8), rank=0)
    for step, loss in enumerate(losses, 41):
        meter.add(loss, 8, step)
        expected += float(loss)
        if step == 900:
            assert float(meter.loss_sum) == expected, "a look between changes nothing"
    assert float(meter.loss_sum) == expected
    assert meter.n_images == 8 * (1 + len(losses))
    for step, loss in enumerate((1.0, float("inf"), float("nan")), 41 + len(losses)):
        meter.add(torch.tensor(loss), 8, step)
    with pytest.raises(Diverged, match=f"not finite at step {42 + len(losses)};"):
        meter.check(build_job(build_config(SMALL, "test"), 0, tmp_path), Progress())
