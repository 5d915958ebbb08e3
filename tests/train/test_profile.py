from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import build_config
from harness.errors import HarnessError
from harness.track.record import read_events
from harness.train import compiled
from harness.train.profile import TRACED, WARM_UP, Profile, matmul_rate
from harness.train.run import execute

SMALL: dict[str, Any] = {
    "model": {"name": "lenet_300_100"},
    "data": {"name": "digits", "batch_size": 128},
    "method": {"name": "rigl", "density": 0.1, "interval": 5, "style": "append"},
    "schedule": {"steps": WARM_UP + 20 + TRACED + 5},
    "engine": {"device": "cpu"},
}


def test_parts_add_up_and_a_trace_is_left(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    result = list(execute(build_config(SMALL, "test"), 1, tmp_path, parts=Profile(told.append, n_steps=20)))[-1]
    (found,), folder = told, tmp_path / result["run_id"]
    assert set(found["parts_ms"]) == {"load", "forward", "backward", "method", "optimizer", "tracking", "other"}
    assert sum(found["parts_ms"].values()) == pytest.approx(found["step_ms"])
    assert all(ms > 0 for part, ms in found["parts_ms"].items() if part != "other")
    assert found["images_per_second"] > 0
    macs = 64 * 300 + 300 * 100 + 100 * 10
    assert found["dense_flops_per_image"] == 6 * macs
    rate = found["images_per_second"] * 6 * macs / found["matmul_flops_per_second"]
    assert found["utilisation"] == pytest.approx(rate)
    assert json.loads((folder / "profile.json").read_text()) == found
    assert [e["steps"] for e in read_events(folder) if e["event"] == "profile"] == [20]
    with gzip.open(folder / "trace.json.gz") as trace:
        assert json.load(trace)["traceEvents"]


def test_a_profiled_run_is_the_run(tmp_path: Path) -> None:
    plain = list(execute(build_config(SMALL, "test"), 1, tmp_path / "plain"))[-1]
    watched = list(execute(build_config(SMALL, "test"), 1, tmp_path / "watched", parts=Profile(lambda found: None)))[-1]
    assert watched["run_id"] == plain["run_id"]
    assert watched["train_loss_last"] == plain["train_loss_last"]
    assert watched["sha256"]["weights.safetensors"] == plain["sha256"]["weights.safetensors"]


def test_every_record_says_what_waiting_for_data_took(tmp_path: Path) -> None:
    result = list(execute(build_config(SMALL, "test"), 1, tmp_path))[-1]
    said = [e["loading_percent"] for e in read_events(tmp_path / result["run_id"]) if e["event"] == "evaluation"]
    assert len(said) == 4
    assert all(0 < percent < 100 for percent in [*said, result["loading_percent"]])


def test_the_rate_of_matrix_products_is_of_this_machine() -> None:
    assert 1e8 < matmul_rate(torch.device("cpu"), "fp32", seconds=0.05) < 1e14


def test_a_compiler_that_fails_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(program: object, inputs: object) -> None:
        raise RuntimeError("no C compiler found")

    monkeypatch.setattr(compiled, "COMPILER", broken)
    config = build_config({**SMALL, "engine": {"device": "cpu", "compile": "on"}}, "test")
    with pytest.raises(HarnessError, match=r"torch.compile failed \(no C compiler found\): .*engine.compile=off"):
        list(execute(config, 1, tmp_path))
    torch.compiler.reset()
