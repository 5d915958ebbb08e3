"""A run in a process of its own that kills itself at a given moment of its work."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness.config import build_config
from harness.track import record
from harness.train import checkpoint, engine, loop, run
from tests.distributed.processes import FORKS, environments

POINTS = ("step", "layer of an update", "half a file", "unnamed file", "named file", "half a line", "before the result",
          "after the result")  # fmt: skip
"""Where a trap may lie; the n-th time a run comes by, it dies there by SIGKILL."""


def run_with_trap(plain: dict[str, Any], out: Path, trap: tuple[str, int] | None) -> int:
    """Train in a new process; its exit code: 0, or -9 where it fell into the trap.

    Several workers are as many processes, each with the trap, and the exit code is that of the first. One that did not
    fall into it, as only the first rank writes files, is left alone: it must end by itself and say that it failed.
    """
    n_ranks = plain["engine"].get("workers", 1)
    ranks = [FORKS.Process(target=_run, args=(plain, str(out), trap, env)) for env in environments(n_ranks)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    for process in ranks:
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"the run hangs after {trap}")
    codes = [process.exitcode for process in ranks]
    assert all(bool(code) == bool(codes[0]) for code in codes), codes
    return codes[0] or 0


def _run(plain: dict[str, Any], out: str, trap: tuple[str, int] | None, env: dict[str, str]) -> None:
    torch.set_num_threads(1)
    os.environ.update(env)
    if trap is not None:
        _lay(*trap)
    for _ in run.execute(build_config(plain, "test"), 0, Path(out)):
        pass


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _lay(point: str, n: int) -> None:
    count = 0

    def comes_by() -> bool:
        nonlocal count
        count += 1
        return count == n

    def before(where: Any, name: str) -> None:
        _replace(where, name, lambda do: lambda *a, **k: _die() if comes_by() else do(*a, **k))

    def after(where: Any, name: str) -> None:
        def wrap(do: Callable[..., Any]) -> Callable[..., Any]:
            def done(*a: Any, **k: Any) -> Any:
                found = do(*a, **k)
                if comes_by():
                    _die()
                return found

            return done

        _replace(where, name, wrap)

    if point == "step":
        before(loop, "take_step")
    elif point == "layer of an update":
        after(engine.Engine, "set_mask")
    elif point == "half a file":

        def half(do: Callable[..., Any]) -> Callable[..., Any]:
            def written(tensors: Any, path: Path, **k: Any) -> None:
                do(tensors, path, **k)
                if comes_by():
                    os.truncate(path, path.stat().st_size // 2)
                    _die()

            return written

        _replace(checkpoint, "save_file", half)
    elif point == "unnamed file":
        before(os, "replace")
    elif point == "named file":
        after(os, "replace")
    elif point == "half a line":

        def half_line(do: Callable[..., Any]) -> Callable[..., Any]:
            def appended(self: record.Record, *a: Any, **k: Any) -> Any:
                size = self.size()
                found = do(self, *a, **k)
                if comes_by():
                    os.truncate(self.path, (size + self.size()) // 2)
                    _die()
                return found

            return appended

        _replace(record.Record, "append", half_line)
    elif point == "before the result":
        before(run, "write_result")
    elif point == "after the result":
        after(run, "write_result")
    else:
        raise ValueError(point)


def _replace(where: Any, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    setattr(where, name, wrap(getattr(where, name)))
