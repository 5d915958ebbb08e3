"""Every method stopped in the middle of its work, more than once, and continued: nothing differs, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from harness.config import build_config
from harness.errors import Interrupted
from harness.train.run import execute
from tests.resume.test_stop import StopAfter, events

TIMING = {"train_seconds", "images_per_second", "loading_percent"}
METHODS: dict[str, dict[str, Any]] = {
    "dst, with resets": {"name": "dst", "alpha": 0.05},
    "str": {"name": "str", "s_init": -4.0},
    "dns": {"name": "dns", "c_rate": 0.5, "begin": 0.25, "gamma": 0.01},
    "topkast": {"name": "topkast", "density": 0.1, "interval": 5},
    "dctps": {"name": "dctps", "density": 0.1, "topology": "rigl", "interval": 5},
    "gmp": {"name": "gmp", "density": 0.1, "interval": 5, "distribution": "erk"},
    "gmp with recovery": {"name": "gmp", "density": 0.1, "interval": 5, "recover": True},
    "acdc": {"name": "acdc", "density": 0.1},
    "synflow": {"name": "synflow", "density": 0.1, "rounds": 5},
    "rigl_itop": {"name": "rigl_itop", "density": 0.1, "interval": 5},
    "deepr": {"name": "deepr", "density": 0.1, "noise": 0.1, "l1": 1e-3},
    "dsr": {"name": "dsr", "density": 0.1, "n_pruned": 100, "intervals": [2], "interval_starts": [0.0]},
    "snfs": {"name": "snfs", "density": 0.1, "interval": 4},
    "mest_ems": {"name": "mest_ems", "density": 0.1, "interval": 4},
    "chts": {"name": "chts", "density": 0.1, "interval": 4},
    "srigl": {"name": "srigl", "density": 0.1, "interval": 4},
    "granet": {"name": "granet", "density": 0.1, "interval": 4},
    "imp": {"name": "imp", "density": 0.64},
    "imp, rewinding to a later step": {"name": "imp", "density": 0.64, "rewind": 0.25},
}


def config_of(method: dict[str, Any], optimizer: dict[str, Any], engine: dict[str, Any] | None = None) -> Any:
    sections = {
        "model": {"name": "lenet_300_100"}, "data": {"name": "digits", "batch_size": 128, "pad": 1}, "method": method,
        "optimizer": {"weight_decay": 5e-4, **optimizer}, "schedule": {"epochs": 4},
        "engine": {"device": "cpu", **(engine or {})},
    }  # fmt: skip
    return build_config(sections, "test")


@pytest.mark.parametrize("optimizer", [{"lr": 0.1}, {"name": "adam", "lr": 1e-3}], ids=["sgd", "adam"])
@pytest.mark.parametrize("method", METHODS)
def test_stopped_and_continued(method: str, optimizer: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(METHODS[method], optimizer)
    whole = list(execute(config, 0, tmp_path / "whole"))[-1]
    # forty steps; lottery tickets have three rounds: stopped at the end of the first (40), in the second, in the third
    for n_steps in (3, 37, 7, 41, 2) if METHODS[method]["name"] == "imp" else (3, 9, 1, 12):
        with pytest.raises(Interrupted):
            list(execute(config, 0, tmp_path / "parts", StopAfter(n_steps)))
    parts = list(execute(config, 0, tmp_path / "parts"))[-1]
    assert {k: v for k, v in parts.items() if k not in TIMING} == {k: v for k, v in whole.items() if k not in TIMING}
    run_id = whole["run_id"]
    assert events(tmp_path / "parts" / run_id) == events(tmp_path / "whole" / run_id)
    for name in ("weights", "masks"):
        one, other = (load_file(tmp_path / out / run_id / f"{name}.safetensors") for out in ("whole", "parts"))
        assert {k: v.numpy().tobytes() for k, v in one.items()} == {k: v.numpy().tobytes() for k, v in other.items()}
    if "resets" in method and optimizer["lr"] == 0.1:
        assert sum(whole["resets"].values()) > 0
