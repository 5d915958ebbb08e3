from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from harness.config.schema import DataConfig
from harness.data import open as opening
from harness.data.open import node_threads
from harness.data.rates import tune_loader


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for i in range(6):
                Image.new("RGB", (40 + i, 30), (40 * i, 90, 20)).save(tmp_path / "pets" / split / name / f"{i}.jpg")
    return tmp_path


def test_every_setting_is_measured(folder: Path) -> None:
    config = DataConfig(name="imagefolder", root=str(folder), folder="pets", image_size=16, batch_size=4)
    rates = list(tune_loader(config, torch.device("cpu"), seconds=0.05))
    cores = len(os.sched_getaffinity(0))
    assert {rate.prefetch for rate in rates} == {2, 4}
    assert {1, cores} <= {rate.threads for rate in rates}
    assert all(rate.images_per_second > 0 for rate in rates)


def test_the_command_ends_with_the_setting_to_use(folder: Path) -> None:
    words = ["doctor", "--tune-loader", "pets", "--data-root", str(folder), "--image-size", "16", "--seconds", "0.1"]
    said = subprocess.run([sys.executable, "-m", "harness", *words], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1].startswith("--set data.threads=")
    plain = subprocess.run([sys.executable, "-m", "harness", *words, "--json"], capture_output=True, text=True)
    found = json.loads(plain.stdout)
    assert found["best"] in found["rates"]
    assert found["trains"] is None
    words += ["--recipe", "imagenette_r18_smoke"]
    said = subprocess.run([sys.executable, "-m", "harness", *words], capture_output=True, text=True, check=True)
    assert re.match(
        r"imagenette_r18_smoke trains [\d,]+ images/s when nothing is loaded: the (network|loader) is the limit, \d+ %",
        said.stdout.splitlines()[-2],
    )


def test_a_node_shares_its_cores_among_its_gpus_and_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(opening, "GPUS", str(tmp_path / "none"))
    assert node_threads() == 64
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert node_threads() == 32
    for gpu in range(8):
        (tmp_path / "gpus" / str(gpu)).mkdir(parents=True)
    monkeypatch.setattr(opening, "GPUS", str(tmp_path / "gpus"))
    assert node_threads() == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert node_threads() == 1
