"""Starts real processes that find one another over gloo."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
"""Processes that begin where imports end: torch and DeepSpeed take seconds, each time."""

FORKS.set_forkserver_preload(["harness.train.run", "harness.data.sources", "sklearn.datasets", "deepspeed"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environments(world_size: int) -> list[dict[str, str]]:
    """Of each rank, as `torchrun` would set them; of one process alone, nothing."""
    if world_size == 1:
        return [{}]
    meeting = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [{"RANK": str(rank), "LOCAL_RANK": str(rank), **meeting} for rank in range(world_size)]


def run_ranks(world_size: int, module: str, *arguments: str, timeout: float = 540) -> list[tuple[int, str]]:
    """`python -m module arguments` once per rank; returns each rank's exit code and output."""
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder) / str(rank) for rank in range(world_size)]
        ranks = [
            FORKS.Process(target=_run, args=({**os.environ, **env}, module, arguments, str(path)))
            for env, path in zip(environments(world_size), said, strict=True)
        ]
        for process in ranks:
            process.start()
        until = time.monotonic() + timeout
        for process in ranks:
            process.join(max(0, until - time.monotonic()))
            if process.exitcode is None:
                for other in ranks:
                    other.kill()
                process.join()
        return [(process.exitcode or 0, path.read_text()) for process, path in zip(ranks, said, strict=True)]


def _run(env: Mapping[str, str], module: str, arguments: tuple[str, ...], output: str) -> None:
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None  # TMPDIR may have changed
    sys.argv = [module, *arguments]
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def run_fresh_ranks(world_size: int, module: str, *arguments: str, timeout: float = 540) -> list[tuple[int, str]]:
    """The same in interpreters of their own, for what happens when one ends."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments], env={**os.environ, **env}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )
        for env in environments(world_size)
    ]  # fmt: skip
    said = [process.communicate(timeout=timeout)[0] for process in started]
    return [(process.returncode, output) for process, output in zip(started, said, strict=True)]
