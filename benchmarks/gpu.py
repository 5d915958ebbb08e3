"""What needs a GPU: the share of its matrix rate that training reaches, small batches beside large, and a whole cell.

Without a GPU only `--smoke` runs, on the CPU, to see that it does; its figures mean nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.contenders import Stepping, device, job_of
from benchmarks.figures import Figure, ratios, show, take_turns
from harness.errors import HarnessError
from harness.train.profile import matmul_rate

CELL = "cifar10_r34_east"


def run(smoke: bool) -> dict[str, Any]:
    if not torch.cuda.is_available() and not smoke:
        raise HarnessError("the benchmark gpu needs a GPU, torch sees none")
    figures = [*of_matrix_rate(smoke), small_batches(smoke), whole_cell(smoke)]
    show(f"on {torch.cuda.get_device_name() if torch.cuda.is_available() else 'a CPU: smoke alone'}", figures)
    return {"figures": [figure.plain() for figure in figures]}


def of_matrix_rate(smoke: bool) -> list[Figure]:
    """Dense FLOPs of forward and backward per second, over what matrix products reach, turn by turn."""
    width = 2 if smoke else 64
    cases: list[tuple[str, dict[str, Any], float, float]] = [
        ("ResNet-34, CIFAR, batch 512", {"model": {"width": width}, "data": {"batch_size": 16 if smoke else 512}},
         0.25, 0.36),
        ("ResNet-50, ImageNet, batch 256",
         {"model": {"name": "resnet50", "stem": "imagenet", "width": width},
          "data": {"image_size": 64 if smoke else 224, "n_images": 64 if smoke else 4096, "n_classes": 1000,
                   "batch_size": 8 if smoke else 256}}, 0.14, 0.22),
    ]  # fmt: skip
    figures = []
    for name, sections, goal, stretch in cases:
        job, n = job_of(**sections), 1 if smoke else 40
        stepping, shares, speeds = Stepping(job, n), [], []
        stepping()
        flops = 6 * job.ledger.geometry.macs(job.ledger.sizes) * job.config.data.batch_size * n
        for _ in range(2 if smoke else 7):
            rate = matmul_rate(device(), job.config.engine.precision, seconds=0.1 if smoke else 1.0)
            began = time.perf_counter()
            stepping()
            seconds = time.perf_counter() - began
            shares.append(flops / seconds / rate)
            speeds.append(job.config.data.batch_size * n / seconds)
        note = f"{max(speeds):,.0f} images/s; {rate / 1e12:.3g} TFLOP/s in matrix products"
        figures.append(Figure(f"share of the matrix rate: {name}", tuple(shares), goal, stretch, True, note))
        del job, stepping
    return figures


def small_batches(smoke: bool) -> Figure:
    sizes = (4, 8) if smoke else (128, 1024)
    n_images = 16 if smoke else 40_960
    runs = {
        str(size): Stepping(
            job_of(model={"width": 2 if smoke else 64}, data={"batch_size": size}), max(1, n_images // size)
        )
        for size in sizes
    }
    taken = take_turns(runs, 2 if smoke else 7)
    small, large = (taken[str(size)] for size in sizes)
    return Figure(f"images/s, batch {sizes[0]} over {sizes[1]}", ratios(large, small), 0.75, 0.9, at_least=True)


def whole_cell(smoke: bool) -> Figure:
    """Minutes of EAST on ResNet-34 and CIFAR-10 for 250 epochs, compiling, evaluations and records included."""
    words = ["train", CELL, "--set", "method.density=0.001"]
    if smoke:
        words = ["train", "digits_r34_east", "--device", "cpu", "--set", "schedule.epochs=4", "--set", "model.width=2"]
        words += ["--set", "method.dyrelu=null", "--set", "method.cyclic=null"]
    elif "HARNESS_DATA" not in os.environ:
        raise HarnessError("the whole cell trains on CIFAR-10: set HARNESS_DATA to the folder that holds it")
    else:
        words += ["--set", "engine.precision=bf16"]
    with TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, "-m", "harness", *words, "--out", folder, "--tracking", "none", "--json"]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        minutes = (time.perf_counter() - began) / 60
        assert Path(folder).is_dir()
    (result,) = json.loads(said)["results"]
    note = f"test accuracy {100 * result['test_accuracy_last']:.2f} %, {result['n_active']:,} active weights"
    return Figure("minutes of a 250-epoch EAST cell", (minutes,), 10, 6, note=note)
