"""One cell of a suite as a Ray Tune trial."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import tune

from harness.config import Cell, build_config
from harness.errors import HarnessError, Interrupted
from harness.track.record import STOP_NOTE, facts_of, read_result, write_result

PATIENCE_S = 60.0
"""The processes of a driver that was killed live on for seconds."""


class CellTrial(tune.Trainable):
    """Trains one cell or several, in this process or in Train worker groups. A failure is a result, never an exception
    to Tune.

    What the trial leaves is the runs' own folders; Tune only schedules. The actor is reused for the next trial, so that
    torch is imported once. SIGTERM, as from a machine that is about to be taken away, ends the trial as 'preempted'.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._events: Iterator[dict[str, Any]] | None = None
        trial = config["trial"]
        self.cells = [Cell(build_config(c["config"], "cell"), c["seed"]) for c in trial["cells"]]
        self.out = Path(trial["out"])
        self.gpu = bool(trial["gpu"])
        self.tick_s = float(trial["tick_s"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Training up to an evaluation some seconds from now; Tune sees 'done' with the last."""
        from harness.train.loop import StopRequest

        if self._events is None:
            self._stop = StopRequest()
            self._events = self._train()
        until = time.monotonic() + self.tick_s
        try:
            with self._stop.listening():
                for event in self._events:
                    if time.monotonic() >= until:
                        return {"status": "running", "step": event.get("step", 0), "done": False}
            status = self._status()
        except Interrupted:
            status = "preempted" if self._stop.signalled else "stopped"
        except Exception as error:
            record_failure(self.cell, self.out, error)
            status = "failed"
        self._events = None
        return {"status": status, "done": True}

    def _train(self) -> Iterator[dict[str, Any]]:
        """The evaluations of every cell, or, where a group of workers trains, a beat every second."""
        from harness.train.run import execute

        for cell in self.cells:
            self.cell = cell  # for what may go wrong
            if self.cell.config.engine.workers > 1:
                from harness.tune.workers import train_on_workers

                yield from train_on_workers(self.cell, self.out, self.gpu)
            else:
                yield from execute(self.cell.config, self.cell.seed, self.out, self._stop, patience_s=PATIENCE_S)

    def _status(self) -> str:
        results = [read_result(self.out / cell.run_id) for cell in self.cells]
        return next((str(r["status"]) if r else "lost" for r in results if r is None or r["status"] != "done"), "done")

    def cleanup(self) -> None:
        """Tune stops the trial, as its driver was asked to leave: the run saves itself at the end of its step."""
        if self._events is None:
            return
        self._stop.signalled = True
        note = self.out / self.cell.run_id / STOP_NOTE  # what a group of workers looks for
        with suppress(Exception):  # a run that ends, ends as in `step`; what goes wrong now is met when it goes on
            if self.cell.config.engine.workers > 1:
                note.touch()
            for _ in self._events:
                pass
        note.unlink(missing_ok=True)

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
    lines = reason.strip().splitlines()
    return {**facts_of(cell.config, cell.seed), "status": "failed", "reason": lines[-1] if lines else "no message"}
