"""What records and the mirror to MLflow take of a run: processor time beside that of training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.figures import Figure, show
from harness.config import build_config, run_id
from harness.track.mirror import BackgroundMirror, Mirror, default_uri
from harness.track.record import all_results
from harness.train.profile import NOTHING, Parts
from harness.train.run import execute


class Recording(Parts):
    """Seconds that the loop spends on its record."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, part: str) -> AbstractContextManager[None]:
        return self._timed() if part == "tracking" else NOTHING

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.thread_time()
        yield
        self.seconds += time.thread_time() - began


class Watched(Mirror):
    """Milliseconds that its parts took."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.ms: dict[str, float] = {}

    def _find_or_create(self, *given: Any) -> Any:
        return self._timed("in all: a run and its parameters", super()._find_or_create, *given)

    def _log(self, *given: Any) -> Any:
        return self._timed("in all: metrics of evaluations", super()._log, *given)

    def _timed(self, part: str, call: Callable[..., Any], *given: Any) -> Any:
        began = time.thread_time()
        found = call(*given)
        self.ms[part] = self.ms.get(part, 0.0) + 1000 * (time.thread_time() - began)
        return found


def run(smoke: bool) -> dict[str, Any]:
    """A run with an evaluation every two seconds or so, its record followed by a mirror into SQLite.

    On one thread of a CPU, so that whatever the process uses beyond its main thread is the mirror's.
    """
    torch.set_num_threads(1)
    plain = {
        "model": {"name": "resnet34", "width": 2 if smoke else 8},
        "data": {"name": "synthetic", "n_images": 512 if smoke else 2048},
        "method": {"name": "rigl", "density": 0.1}, "optimizer": {"lr": 0.05},
        "schedule": {"epochs": 1 if smoke else 60}, "engine": {"device": "cpu", "threads": 1},
        "evaluation": {"every_epochs": 1.0},
    }  # fmt: skip
    config = build_config(plain, "benchmark")
    with TemporaryDirectory() as folder:
        out, parts = Path(folder), Recording()
        # importing MLflow and making its database come once, not with each run
        Mirror(default_uri(out), "benchmark", out).connect()
        mirror = BackgroundMirror(default_uri(out), "benchmark", out, [out / run_id(config, 0)])
        mirror.mirror = watched = Watched(default_uri(out), "benchmark", out)
        whole, main = time.process_time(), time.thread_time()
        for event in execute(config, 0, out, parts=parts):
            result = event
        here = time.thread_time() - main
        mirror.close(all_results(out))
        beside = time.process_time() - whole - (time.thread_time() - main)
    assert result["status"] == "done"
    figures = [
        Figure("records over training", (parts.seconds / here,), 0.001),
        Figure(
            "records and mirror over training", ((parts.seconds + beside) / here,), 0.001,
            note=f"{1000 * parts.seconds:.1f} ms and {1000 * beside:.0f} ms of the mirror's thread in {here:.0f} s",
            profile=tuple((part, ms, 0.0) for part, ms in watched.ms.items()),
        ),
    ]  # fmt: skip
    show("tracking", figures)
    return {"figures": [figure.plain() for figure in figures]}
