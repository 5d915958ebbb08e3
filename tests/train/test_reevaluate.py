"""A third party checks a row without training: from config, masks and weights alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from harness.config import build_config
from harness.errors import HarnessError
from harness.track.record import read_result, write_result
from harness.train.reevaluate import reevaluate
from harness.train.run import execute

METHODS: dict[str, dict[str, Any]] = {
    "dense": {},
    "rigl": {"name": "rigl", "density": 0.1, "interval": 5},
    "dst": {"name": "dst", "alpha": 1e-3},
    "dctps": {"name": "dctps", "density": 0.05},
    "east": {
        "name": "east", "density": 0.02, "interval": 5, "stop": 0.75, "dyrelu": {"start_epoch": 1, "end_epoch": 2},
        "cyclic": {"n_cycles": 1, "cycle_epochs": 1, "interval": 3},
    },
}  # fmt: skip


def trained(folder: Path, method: str, **changes: Any) -> Path:
    plain = {
        "model": {"name": "resnet34", "width": 4} if method == "east" else {"name": "lenet_300_100"},
        "data": {"name": "digits", "batch_size": 128}, "method": METHODS[method], "schedule": {"epochs": 3},
        "engine": {"device": "cpu"}, **changes,
    }  # fmt: skip
    (*_, result) = execute(build_config(plain, "t"), 0, folder)
    return folder / str(result["run_id"])


@pytest.mark.parametrize("method", METHODS)
def test_the_same_counts_and_accuracy(method: str, tmp_path: Path) -> None:
    run_dir = trained(tmp_path, method)
    result = read_result(run_dir)
    assert result is not None
    again = reevaluate(run_dir, 0.0)
    assert again.faults == ()
    assert (again.n_active, again.n_nonzero) == (result["n_active"], result["n_nonzero"])
    assert again.test_accuracy == result["test_accuracy_last"]


def test_an_average_of_weights_is_what_is_kept(tmp_path: Path) -> None:
    assert reevaluate(trained(tmp_path, "rigl", optimizer={"ema_decay": 0.9}), 0.0).faults == ()


def test_what_was_changed_afterwards_is_found(tmp_path: Path) -> None:
    run_dir = trained(tmp_path, "rigl")
    result = read_result(run_dir)
    assert result is not None
    write_result(run_dir, {**result, "test_accuracy_last": result["test_accuracy_last"] + 0.01})
    (fault,) = reevaluate(run_dir, 0.0005).faults
    assert fault.startswith("test accuracy")
    write_result(run_dir, {**result, "n_active": result["n_active"] - 1})
    (fault,) = reevaluate(run_dir, 0.0005).faults
    assert "active weights, recorded are" in fault
    write_result(run_dir, result)
    masks = load_file(run_dir / "masks.safetensors")
    layer = next(iter(masks))
    masks[layer] = ~masks[layer]
    save_file(masks, run_dir / "masks.safetensors")
    faults = reevaluate(run_dir, 0.0005).faults
    assert faults == (
        "masks.safetensors is not the file that was written",
        f"layer {layer}: its mask is not the one its weights are under",
    )


def test_the_command_and_the_board(tmp_path: Path) -> None:
    good, bad = trained(tmp_path, "rigl"), trained(tmp_path, "dense")
    with (bad / "weights.safetensors").open("r+b") as stream:
        stream.seek(-4, 2)
        stream.write(b"\x00\x00\x80\x3f")

    def harness(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harness", *words, "--out", str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    none = harness("board", "--verified-only")
    assert none.returncode == 2
    assert "no verified run" in none.stderr
    verified = harness("verify", "--run", good.name)
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.strip().endswith("verified")
    refused = harness("verify", "--run", bad.name)
    assert refused.returncode == 3
    assert "NOT verified\n  weights.safetensors is not the file that was written" in refused.stdout
    rows = json.loads(harness("board", "--verified-only", "--json").stdout)
    assert [row["method"] for row in rows] == ["rigl"]
    marked = harness("board").stdout
    assert "dense at density 1: seed 0 is NOT verified: weights.safetensors is not the file that was written" in marked
    assert "rigl at density 0.1: seed 0 is NOT" not in marked
    result = read_result(good)
    assert result is not None
    write_result(good, {**result, "test_accuracy_last": 0.99})  # what was verified is no longer what it says
    assert harness("board", "--verified-only").returncode == 2
    assert "seed 0 is NOT verified: its result was changed after it was verified" in harness("board").stdout
    nowhere = harness("verify", "--run", "nothing")
    assert nowhere.returncode == 2
    assert "holds no finished run" in nowhere.stderr


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    run_dir = trained(tmp_path, "rigl")
    (run_dir / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(HarnessError, match="its files cannot be read"):
        reevaluate(run_dir, 0.0)
