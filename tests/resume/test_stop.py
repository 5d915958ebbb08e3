"""Stopped on request between two evaluations, and continued: the record reads as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.config import build_config
from harness.errors import Interrupted
from harness.track.record import read_events
from harness.train.loop import StopRequest
from harness.train.run import execute

PLAIN: dict[str, Any] = {
    "model": {"name": "lenet_300_100"},
    "data": {"name": "digits", "batch_size": 128, "pad": 1},
    "method": {"name": "rigl", "density": 0.1, "interval": 4},
    "schedule": {"epochs": 6},
    "engine": {"device": "cpu"},
}
TIMING = {"time", "seconds", "images_per_second", "loading_percent"}


class StopAfter(StopRequest):
    """Asks to stop after some steps of this attempt, wherever they end."""

    def __init__(self, n_steps: int) -> None:
        self.n_left = n_steps

    @property
    def asked(self) -> bool:  # type: ignore[override]
        self.n_left -= 1
        return self.n_left <= 0


def events(run_dir: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in e.items() if k not in TIMING} for e in read_events(run_dir)]


@pytest.mark.parametrize("options", [{}, {"optimizer": {"ema_decay": 0.9}}])
def test_stopped_inside_an_epoch_between_evaluations(tmp_path: Path, options: dict[str, Any]) -> None:
    config = build_config({**PLAIN, **options}, "test")
    whole = list(execute(config, 0, tmp_path / "whole"))[-1]
    for n_steps in (3, 7, 1, 16):  # an epoch, and so an evaluation, every ten
        with pytest.raises(Interrupted):
            list(execute(config, 0, tmp_path / "parts", StopAfter(n_steps)))
    result = list(execute(config, 0, tmp_path / "parts"))[-1]
    assert result["status"] == "done"
    assert events(tmp_path / "parts" / whole["run_id"]) == events(tmp_path / "whole" / whole["run_id"])
    assert result["layers"] == whole["layers"]
    assert result["train_flops"] == whole["train_flops"]
    assert result["test_accuracy_last"] == whole["test_accuracy_last"]
