from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from harness.cli.plans import summarise
from harness.config import Cell, build_config
from harness.config.schema import DataConfig, ModelConfig
from harness.data.batches import Share
from harness.data.open import open_data
from harness.data.sizes import sizes_of
from harness.errors import HarnessError
from harness.models.lenet import lenet_300_100
from harness.models.shape import InputShape
from harness.train.cost import Cost
from harness.train.run import execute
from harness.tune.plan import Device, device_of, largest_batch, memory_of, need_of, plan_cells

SMALL: dict[str, Any] = {
    "model": {"name": "resnet34", "width": 2}, "data": {"name": "digits", "batch_size": 200},
    "optimizer": {"lr": 0.05}, "schedule": {"epochs": 6}, "engine": {"device": "cpu"},
    "evaluation": {"every_epochs": 3},
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "dense": {"name": "dense"},
    "rigl": {"name": "rigl", "density": 0.1, "interval": 4, "stop": 1.0},
    "gmp": {"name": "gmp", "density": 0.1, "interval": 4, "distribution": "erk"},
    "acdc": {"name": "acdc", "density": 0.2, "sparse_from": [0.25, 0.75], "dense_from": [0.5], "distribution": "erk"},
    "topkast": {"name": "topkast", "density": 0.1, "backward_density": 0.2},
    "east": {"name": "east", "density": 0.1, "interval": 6, "dyrelu": {"start_epoch": 2, "end_epoch": 4},
             "cyclic": {"n_cycles": 1, "cycle_epochs": 3, "interval": 2, "multiplier": 2}},
}  # fmt: skip
TABLE = Device(tflops={"fp32": 2.0}, memory_gb=10, utilisation=(0.25, 0.5), price_per_hour=3.0)


def lenet(**sections: Any) -> Any:
    return build_config({**SMALL, "model": {"name": "lenet_300_100"}, **sections}, "test")


def cost_of(seconds: float, n_steps: int = 36, start_s: float = 0.0) -> Cost:
    """Of a run of so many steps whose evaluations take no time."""
    return Cost(start_s, seconds / n_steps, 0.0, {"train": 1199, "validation": 299, "test": 299})


@pytest.mark.parametrize("method", METHODS)
def test_flops_are_those_that_the_record_counts(method: str, tmp_path: Path) -> None:
    config = build_config({**SMALL, "method": METHODS[method]}, "test")
    result = list(execute(config, 1, tmp_path))[-1]
    need = need_of(config, 1)
    assert need.steps == result["steps"] == 36
    assert need.images == 6 * 1199
    assert need.sparse_flops == pytest.approx(result["train_flops"], rel=0.01)
    assert need.dense_flops >= need.sparse_flops


def test_dense_flops_are_those_of_the_network_and_its_evaluations() -> None:
    macs, need = 64 * 300 + 300 * 100 + 100 * 10, need_of(lenet())
    assert need.dense_flops == pytest.approx(6 * macs * 6 * 1199 + 2 * macs * (2 * 299 + 299))


def test_memory_is_what_a_forward_pass_keeps() -> None:
    """Of a linear layer its input, which is the output of the ReLU before it: 64 + 300 + 100 numbers."""
    inputs = InputShape(1, 8, 10)
    network = lenet_300_100(ModelConfig(name="lenet_300_100"), inputs)
    assert memory_of(network, inputs) == 4 * (64 + 300 + 100)


def test_the_largest_batch_fills_the_device() -> None:
    need = need_of(lenet())
    n = largest_batch(need, TABLE)
    assert need.fixed_bytes + n * need.image_bytes <= 0.92e10 < need.fixed_bytes + (n + 1) * need.image_bytes
    assert largest_batch(need, TABLE.model_copy(update={"memory_gb": 0.1})) == 0


def test_what_is_done_is_taken_off_and_the_device_gives_the_hours(tmp_path: Path) -> None:
    config = lenet()
    list(execute(config, 0, tmp_path))
    done, left = plan_cells([Cell(config, seed) for seed in (0, 1)], tmp_path, TABLE)
    assert (done.done, left.done) == (1.0, 0.0)
    assert left.seconds == pytest.approx((left.need.dense_flops / 1e12, left.need.dense_flops / 0.5e12))


def test_what_was_measured_counts_more_than_a_table(tmp_path: Path) -> None:
    (planned,) = plan_cells([Cell(lenet(), 0)], tmp_path, TABLE, [cost_of(100.0, start_s=10.0)])
    assert planned.seconds == pytest.approx((0.9 * 110, 1.2 * 110))
    assert planned.training == pytest.approx((90.0, 120.0))


def test_workers_share_a_run_so_its_wall_time_is_a_part_of_its_devices(tmp_path: Path) -> None:
    cells = [Cell(lenet(engine={"workers": 4}), 0)]
    planned = plan_cells(cells, tmp_path, TABLE, [cost_of(3600.0)])
    summary = summarise(planned, TABLE, 8)
    assert summary["device_hours"] == pytest.approx([4 * 0.9, 4 * 1.2])
    assert summary["wall_hours"] == pytest.approx([0.9, 1.2])


def test_what_is_done_is_held_against_what_was_said_of_it(tmp_path: Path) -> None:
    config = lenet(schedule={"epochs": 1})
    result = list(execute(config, 0, tmp_path))[-1]
    seconds = result["train_seconds"]
    for said, off in ((seconds, 0.0), (seconds / 2, 0.6 - 1), (seconds * 4, 3.6 - 1)):
        done = summarise(plan_cells([Cell(config, 0)], tmp_path, TABLE, [cost_of(said, 6, 99.0)]), TABLE, 1)["done"]
        assert done["device_hours"] == pytest.approx(seconds / 3600)
        assert done["off"] == pytest.approx(off)
        assert done["devices"] == [result["device"]]
    planned = plan_cells([Cell(config, 0)], tmp_path, TABLE)
    assert summarise(planned, TABLE, 1, "h100")["done"]["off"] is None, "it was trained on something else"
    assert summarise(planned, TABLE, 1, result["device"][:4])["done"]["off"] is not None


@pytest.mark.parametrize("n_workers", [1, 2])
def test_first_steps_are_measured_where_the_runs_would_be(n_workers: int, tmp_path: Path) -> None:
    """On Ray, as many workers as a run has; nothing of it is kept. The runs then take about what was said."""
    recipe = tmp_path / "small.yaml"
    wide = {**SMALL, "model": {"name": "resnet34", "width": 4}, "schedule": {"epochs": 10}, "description": "small"}
    wide["engine"] = {"device": "cpu", "threads": 1, "workers": n_workers}
    recipe.write_text(yaml.safe_dump({**wide, "method": METHODS["rigl"]}))
    out = ["--out", str(tmp_path / "runs")]
    harness = [sys.executable, "-m", "harness"]
    plan = [*harness, "plan", str(recipe), "--measure", *out, "--json"]
    before = json.loads(subprocess.run(plan, capture_output=True, text=True, check=True).stdout)
    assert before["done"] is None
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    bench = [*harness, "bench", str(recipe), *out, "--seeds", "0", "--tracking", "none"]
    subprocess.run(bench, capture_output=True, text=True, check=True)
    after = json.loads(subprocess.run([*plan, "--seeds", "0"], capture_output=True, text=True, check=True).stdout)
    assert after["n_left"] == 0
    took, (low, high) = after["done"]["device_hours"], after["done"]["estimated"]
    assert low / 4 < took < 4 * high  # the machine is shared: what is asked is that both are of one thing


def test_imagenet_is_planned_where_it_is_not() -> None:
    config = DataConfig(name="imagefolder", validation_fraction=0.01)
    sizes = sizes_of(config)
    assert sum(sizes.n.values()) == 1_281_167 + 50_000
    assert sizes.inputs == InputShape(3, 224, 1000)
    with pytest.raises(HarnessError, match=r"data.folder pets is not there to be counted"):
        sizes_of(config.model_copy(update={"folder": "pets"}))


@pytest.mark.parametrize("name", ["mnist", "cifar10", "imagefolder"])
def test_sizes_are_those_of_the_files(name: str, real_data: Path) -> None:
    size = 32 if name == "imagefolder" else None
    config = DataConfig(name=name, root=str(real_data), folder="imagenette", image_size=size)
    loader, sizes = open_data(config, 0, Share(), torch.device("cpu"), 100), sizes_of(config)
    assert dict(sizes.n) == loader.sizes
    assert sizes.inputs == loader.inputs


def test_a_device_that_is_not_there_and_a_table_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"no device 'b200' in .*: it has h100, h200, a100"):
        device_of("b200", None)
    table = tmp_path / "mine.yaml"
    with pytest.raises(HarnessError, match="No such file"):
        device_of("mine", table)
    table.write_text("mine: {tflops: {bf16: 1}}")
    with pytest.raises(HarnessError, match=r"mine.yaml: .*validation error"):
        device_of("mine", table)
    with pytest.raises(HarnessError, match="no rate for bf16, only for fp32"):
        plan_cells([Cell(lenet(engine={"precision": "bf16"}), 0)], tmp_path, TABLE)


def test_the_command_launches_nothing_and_says_what_it_would(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("mine: {tflops: {fp32: 2}, memory_gb: 24, utilisation: [0.25, 0.5], price_per_hour: 3600}")
    words = ["plan", "demo", "--device", "mine", "--devices", str(mine), "--gpus", "2", "--out", str(tmp_path / "runs")]
    command = [sys.executable, "-m", "harness", *words]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "26 of 26 runs to do" in said
    assert "in money" in said
    assert not (tmp_path / "runs").exists()
    found = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert found["n_left"] == len(found["cells"]) == 26
    assert found["device_hours"][0] == pytest.approx(sum(c["dense_flops"] for c in found["cells"]) / 1e12 / 3600)
    assert found["price"] == pytest.approx([3600 * h for h in found["device_hours"]])
