"""Commands that outlive the connection that started them: real processes, a real kill of whoever watches."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SUBMIT = Path(__file__).parents[2] / "clusters" / "submit.py"
LONG = ["train", "digits_r34", "--address", "local", "--tracking", "none", "--device", "cpu"]
LONG += ["--set", "model.width=4", "--set", "schedule.epochs=400", "--set", "evaluation.checkpoint_seconds=0"]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()


def submit(out: Path, *words: str) -> subprocess.Popen[str]:
    env = {**os.environ, "HARNESS_OUT": str(out)}
    command = [sys.executable, "-u", str(SUBMIT), *words]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def name_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    found = re.match(r"job (\S+): goes on", process.stdout.readline())
    assert found is not None
    return found.group(1)


def test_it_shows_what_the_command_says_and_returns_its_exit_code(tmp_path: Path) -> None:
    code, said, _ = ended(submit(tmp_path, "recipes"))
    assert code == 0
    assert "digits_r34_east" in said
    code, said, _ = ended(submit(tmp_path, "train", "no_such_recipe"))
    assert code == 2
    assert "no_such_recipe" in said


@pytest.mark.slow
def test_the_job_outlives_who_watches_it_and_stops_when_asked(
    tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    watcher = submit(tmp_path, *LONG)
    started.append(watcher)
    name = name_of(watcher)
    watch_until(watcher, "step ")
    watcher.send_signal(signal.SIGKILL)  # as when a connection is lost
    watcher.wait()
    again = submit(tmp_path, "--", "--follow", name)
    started.append(again)
    watch_until(again, "step ")  # from the beginning, and it goes on
    code, said, _ = ended(submit(tmp_path, "--", "--stop", name))
    assert code == 75
    assert "saved: the same command continues it" in said
    assert ended(again)[0] == 75
    assert list(tmp_path.glob("*/checkpoint-*.safetensors"))
    code, _, complaint = ended(submit(tmp_path, "--stop", name))
    assert (code, complaint) == (1, f"submit: job {name} is not running\n")


@pytest.mark.slow
def test_a_job_that_was_killed_is_told_from_one_that_ended(
    tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    watcher = submit(tmp_path, *LONG)
    started.append(watcher)
    name = name_of(watcher)
    watch_until(watcher, "step ")
    os.killpg(int((tmp_path / "jobs" / f"{name}.pid").read_text()), signal.SIGKILL)
    assert ended(watcher)[0] == 3


def test_a_job_that_is_not_there_is_named(tmp_path: Path) -> None:
    code, _, complaint = ended(submit(tmp_path, "--follow", "yesterday"))
    assert code == 1
    assert f"no job 'yesterday' in {tmp_path / 'jobs'}: none" in complaint
    assert ended(submit(tmp_path, "--follow"))[2].startswith("submit: --follow needs the name of a job")


def test_a_job_system_of_its_own_gets_the_command_in_its_process(tmp_path: Path) -> None:
    code, said, _ = ended(submit(tmp_path, "--here", "recipes"))
    assert code == 0
    assert "digits_r34_east" in said
    assert not (tmp_path / "jobs").exists()


def watch_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    until = time.monotonic() + 150
    for line in process.stdout:
        if text in line:
            return
        assert time.monotonic() < until
    raise AssertionError(f"it ended without saying '{text}'")
