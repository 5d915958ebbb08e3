"""One cell of a suite as a Ray Tune trial."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray import tune

from harness.config import Cell, build_config
from harness.config.schema import model_label, shown_name
from harness.errors import HarnessError
from harness.track.record import read_result, write_result

REPORT_EVERY_S = 5.0


class CellTrial(tune.Trainable):
    """Trains a cell, in this process or in a Train worker group. A failure is a result, never an exception to Tune.

    What the trial leaves is the run's own folder; Tune only schedules. The actor is reused for the next cell, so that
    torch is imported once.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._events: Iterator[dict[str, Any]] | None = None
        cell = config["cell"]
        self.cell = Cell(build_config(cell["config"], "cell"), cell["seed"])
        self.out = Path(cell["out"])
        self.gpu = bool(cell["gpu"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Some seconds of training; Tune sees 'done' with the last."""
        try:
            if self.cell.config.engine.workers > 1:
                from harness.tune.workers import train_on_workers

                train_on_workers(self.cell, self.out, self.gpu)
                return {"status": self._status(), "done": True}
            return self._train_some()
        except Exception as error:
            self._events = None
            record_failure(self.cell, self.out, error)
            return {"status": "failed", "done": True}

    def _train_some(self) -> dict[str, Any]:
        from harness.train.run import execute

        if self._events is None:
            self._events = execute(self.cell.config, self.cell.seed, self.out)
        until = time.monotonic() + REPORT_EVERY_S
        for event in self._events:
            if "status" in event:
                return {"status": event["status"], "done": True}
            if time.monotonic() > until:
                return {"status": "running", "step": event["step"], "done": False}
        return {"status": self._status(), "done": True}

    def _status(self) -> str:
        result = read_result(self.out / self.cell.run_id)
        return str(result["status"]) if result else "lost"

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the run's own checkpoint is the only one."""

    def load_checkpoint(self, checkpoint: object) -> None:
        """Nothing: a run continues from its own folder."""


def record_failure(cell: Cell, out: Path, error: Exception) -> None:
    """Write why a cell has no result, unless the run itself did."""
    run_dir = out / cell.run_id
    held = read_result(run_dir)
    if held is not None and held["status"] != "failed":
        return
    reason = str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
    run_dir.mkdir(parents=True, exist_ok=True)
    write_result(run_dir, failed_result(cell, reason))


def failed_result(cell: Cell, reason: str) -> dict[str, Any]:
    config = cell.config
    folder = f":{config.data.folder}" if config.data.name == "imagefolder" else ""
    return {
        "run_id": cell.run_id,
        "fingerprint": cell.run_id.rpartition("-")[0],
        "method": shown_name(config.method),
        "model": model_label(config),
        "data": config.data.name + folder,
        "seed": cell.seed,
        "density": config.method.density,
        "status": "failed",
        "reason": reason.strip().splitlines()[-1] if reason.strip() else "no message",
    }
