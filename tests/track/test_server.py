"""Tracking under fault: a real server that is killed and comes back, and eight processes on one file."""

from __future__ import annotations

import glob
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.config import build_config
from harness.track.mirror import Mirror, default_uri
from harness.track.record import read_events
from harness.train.run import execute
from tests.distributed.processes import free_port
from tests.track.test_mirror import PLAIN, run_dirs

pytestmark = pytest.mark.slow
SLOW = {**PLAIN, "data": {"name": "digits", "batch_size": 16}, "schedule": {"epochs": 60}}


def until(what: Callable[[], Any], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


class TrackingServer:
    def __init__(self, folder: Path, store: str) -> None:
        self.folder, self.store, self.port = folder, store, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        words += [
            "--backend-store-uri",
            self.store,
            "--artifacts-destination",
            str(self.folder),
        ]
        env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
        self.process = subprocess.Popen(
            [sys.executable, *words],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until(self.answers)

    def answers(self) -> bool:
        try:
            return bool(urllib.request.urlopen(f"{self.uri}/health", timeout=2).status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def histories(mirror: Mirror) -> dict[str, list[tuple[str, int]]]:
    """Of each run there, each value of each metric that is logged at evaluations."""
    found = {}
    for run in mirror._client.search_runs([mirror.experiment_id]):
        if "harness.run_id" in run.data.tags:
            names = ("val_accuracy", "train_loss", "progress_step")
            held = [(name, m.step) for name in names for m in mirror._client.get_metric_history(run.info.run_id, name)]
            found[run.data.tags["harness.run_id"]] = held
    return found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """A real PostgreSQL where it is installed, else a SQLite file. PostgreSQL refuses to run as root."""
    found = shutil.which("pg_ctl") or next(iter(glob.glob("/usr/lib/postgresql/*/bin/pg_ctl")), None)
    if found is None:
        yield f"sqlite:///{tmp_path}/server.db"
        return
    programs, port = Path(found).resolve().parent, free_port()
    owner = {"user": "nobody"} if os.getuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="harness-postgres-"))  # tmp_path is closed to other users
    if owner:
        shutil.chown(folder, **owner)

    def call(*words: str) -> None:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, **owner)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr

    data = str(folder / "data")
    call(str(programs / "initdb"), "-D", data, "-U", "harness", "-A", "trust", "--no-sync")
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories="
    call(str(programs / "pg_ctl"), "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
    yield f"postgresql://harness@127.0.0.1:{port}/postgres"
    call(str(programs / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(folder)


def test_a_server_killed_in_mid_run_and_started_again(tmp_path: Path, store: str) -> None:
    server, out = TrackingServer(tmp_path, store), tmp_path / "runs"
    recipe = tmp_path / "slow.yaml"
    recipe.write_text(yaml.safe_dump({"description": "slow", **SLOW}))
    server.start()
    words = [sys.executable, "-m", "harness", "train", str(recipe), "--out", str(out), "--tracking", server.uri]
    training = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: len(run_dirs(out)) == 1 and sum(1 for _ in read_events(run_dirs(out)[0])) > 8)
        server.kill()
        _, errors = training.communicate(timeout=300)
        assert training.returncode == 0, errors
        assert errors.count("does not answer") == 1
        server.start()
        for _ in range(2):  # the second time there is nothing to send
            sync = [sys.executable, "-m", "harness", "sync", "--out", str(out), "--tracking", server.uri]
            subprocess.run(sync, check=True, capture_output=True)
        mirror = Mirror(server.uri, "sparsity-harness", out)
        mirror.connect()
        (run_dir,) = run_dirs(out)
        steps = [e["step"] for e in read_events(run_dir) if e["event"] == "evaluation"]
        assert len(steps) == 60
        assert Counter(histories(mirror)[run_dir.name]) == Counter(
            (name, step) for name in ("val_accuracy", "train_loss", "progress_step") for step in steps
        )
    finally:
        training.kill()
        server.kill()


def send(out: str, name: str) -> None:
    mirror = Mirror(default_uri(Path(out)), "sparsity-harness", Path(out))
    mirror.sync(Path(out) / name)


def test_eight_processes_write_to_one_file(tmp_path: Path) -> None:
    list(execute(build_config({**PLAIN, "schedule": {"epochs": 20}}, "test"), 0, tmp_path / "one"))
    (held,) = run_dirs(tmp_path / "one")
    out = tmp_path / "runs"
    names = [f"copy{i}" for i in range(8)]
    for name in names:
        shutil.copytree(held, out / name)
    start = multiprocessing.get_context("fork")
    import mlflow.tracking  # noqa: F401  # once, not in each of the eight

    sending = [start.Process(target=send, args=(str(out), name)) for name in names]
    for process in sending:
        process.start()
    for process in sending:
        process.join(120)
    assert [process.exitcode for process in sending] == [0] * 8
    mirror = Mirror(default_uri(out), "sparsity-harness", out)
    mirror.connect()
    found = histories(mirror)
    assert sorted(found) == names
    assert {len(values) for values in found.values()} == {3 * 20}
    assert all(len(set(values)) == len(values) for values in found.values())
