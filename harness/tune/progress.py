"""What the person at the terminal sees while cells train; read from the records, wherever the cells run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from harness.config import Cell
from harness.config.schema import label_of
from harness.track.record import read_events, read_result

if TYPE_CHECKING:
    from harness.tune.estimate import Estimate


def fraction_done(run_dir: Path) -> float:
    """0 to 1, from the last evaluation recorded."""
    if read_result(run_dir) is not None:
        return 1.0
    steps = [e for e in read_events(run_dir) if e["event"] == "evaluation"]
    return steps[-1]["step"] / steps[-1]["total_steps"] if steps else 0.0


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass(frozen=True, slots=True)
class Glance:
    """Where a set of runs stands. `share`: how much of it is done, 0 to 1."""

    share: float
    head: str
    tail: str = ""
    left_s: float | None = None
    """What is left by an estimate made before, for as long as too little is done to tell."""


class RunsLook:
    """The cells of a suite, each as long as it is expected to be, or all alike."""

    def __init__(self, cells: list[Cell], out: Path) -> None:
        self.cells, self.out = cells, out
        self._finished: set[str] = set()
        self._lengths: tuple[float, ...] = (1.0,) * len(cells)
        self._wall_s: float | None = None

    def expect(self, estimate: Estimate) -> None:
        self._lengths, self._wall_s = estimate.seconds, estimate.wall_s

    def __call__(self) -> Glance:
        done, running = 0.0, []
        for cell, length in zip(self.cells, self._lengths, strict=True):
            part = 1.0 if cell.run_id in self._finished else fraction_done(self.out / cell.run_id)
            done += part * length
            if part == 1:
                self._finished.add(cell.run_id)
            elif part > 0:
                running.append(f"{label_of(cell.config.method)} {part:.0%}")
        shown = f"  ({'; '.join(running[:3])})" if running else ""
        share = done / sum(self._lengths)
        left_s = self._wall_s * (1 - share) if self._wall_s is not None else None
        return Glance(share, f"{len(self._finished)}/{len(self.cells)} runs", shown, left_s)


class ProgressView:
    """A bar on a terminal; elsewhere a line every quarter of a minute."""

    PERIOD_S = 1.0
    LINE_EVERY_S = 15.0

    def __init__(self, look: Callable[[], Glance], console: Console) -> None:
        self.look, self.console = look, console
        self._stop = threading.Event()
        self._began: float | None = None
        self._began_at = 0.0
        self._bar: Progress | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> ProgressView:
        if self.console.is_terminal:
            self._bar = Progress(TextColumn("{task.description}"), BarColumn(), console=self.console)
            self._task = self._bar.add_task("starting Ray", total=1.0)
            self._bar.start()
        self._thread.start()
        return self

    def _watch(self) -> None:
        last_line = time.monotonic()
        while not self._stop.wait(self.PERIOD_S):
            done, text = self._look()
            if self._bar is not None:
                self._bar.update(self._task, completed=done, description=text)
            elif time.monotonic() - last_line > self.LINE_EVERY_S:
                self.console.print(text)
                last_line = time.monotonic()

    def _look(self) -> tuple[float, str]:
        seen, now = self.look(), time.monotonic()
        if seen.share > 0 and self._began is None:
            self._began, self._began_at = now, seen.share
        eta = duration(seen.left_s) if seen.left_s is not None else "?"
        if self._began is not None and seen.share > self._began_at + 0.01:
            eta = duration((now - self._began) / (seen.share - self._began_at) * (1 - seen.share))
        return seen.share, f"{seen.head}, {seen.share:.0%}, ETA {eta}{seen.tail}"

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.update(self._task, completed=1.0, description=self._look()[1])
            self._bar.stop()
