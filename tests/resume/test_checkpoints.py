"""A checkpoint is whole or passed over: damage of any kind, a full disk, a file from elsewhere."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.config import build_config
from harness.errors import HarnessError, Interrupted
from harness.track.record import read_events
from harness.train.checkpoint import load_tensors, save_tensors
from harness.train.run import execute
from tests.resume.test_kill import only_run, outcome
from tests.resume.test_kill_points import LENET
from tests.resume.test_stop import StopAfter

PLAIN = {**LENET, "method": {"name": "rigl", "density": 0.1, "interval": 4}}
CONFIG = build_config(PLAIN, "test")


def checkpoints(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob("checkpoint-*"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("undisturbed")
    list(execute(CONFIG, 0, out))
    return outcome(only_run(out))


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The folder of a run stopped after 20 of 36 steps, with checkpoints of two steps in it."""
    with pytest.raises(Interrupted):
        list(execute(CONFIG, 0, tmp_path, StopAfter(20)))
    run_dir = only_run(tmp_path)
    assert [p.name for p in checkpoints(run_dir)] == [f"checkpoint-{step:09d}.safetensors" for step in (18, 20)]
    return run_dir


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeros at the end": lambda content: content[:-4096] + bytes(4096),
    "a bit of the header": lambda content: flipped(content, 200),
    "a bit of a tensor": lambda content: flipped(content, len(content) - 1000),
    "another format": lambda content: pickle.dumps({"model": [1, 2, 3]}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_one_before_is_continued_from(stopped: Path, undisturbed: dict[str, Any], damage: str) -> None:
    newest = checkpoints(stopped)[-1]
    newest.write_bytes(DAMAGES[damage](newest.read_bytes()))
    list(execute(CONFIG, 0, stopped.parent))
    found = outcome(stopped)
    (fallback,) = [e for e in found["events"] if e["event"] == "fallback"]
    assert fallback["step"] == 18
    assert list(fallback["damaged"]) == [newest.name]
    assert {**found, "events": [e for e in found["events"] if e["event"] != "fallback"]} == undisturbed
    assert not checkpoints(stopped)


def test_the_damaged_one_does_not_count_among_those_kept(stopped: Path) -> None:
    newest = checkpoints(stopped)[-1]
    newest.write_bytes(b"")
    with pytest.raises(Interrupted):
        list(execute(CONFIG, 0, stopped.parent, StopAfter(1)))
    assert [p.name for p in checkpoints(stopped)] == [f"checkpoint-{step:09d}.safetensors" for step in (18, 19)]


def test_where_none_is_whole_nothing_is_lost_and_it_is_said(stopped: Path) -> None:
    for path in checkpoints(stopped):
        path.write_bytes(path.read_bytes()[:-1])
    held = {path: path.read_bytes() for path in stopped.iterdir()}
    with pytest.raises(
        HarnessError, match=r"no checkpoint in .* is whole \(checkpoint-000000020.*checkpoint-000000018"
    ):
        list(execute(CONFIG, 0, stopped.parent))
    assert {path: path.read_bytes() for path in stopped.iterdir()} == held


def test_any_bit_counts(tmp_path: Path) -> None:
    """Or the file cannot be read at all: none of 300 flipped bits gives other tensors or facts."""
    import torch

    path = tmp_path / "some.safetensors"
    tensors = {"a": torch.arange(100.0), "b": torch.ones(3, 5, dtype=torch.bool), "c": torch.tensor(2)}
    save_tensors(path, tensors, {"step": 3})
    whole, draw = path.read_bytes(), random.Random(0)
    for _ in range(300):
        bit = draw.randrange(8 * len(whole))
        path.write_bytes(whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :])
        with pytest.raises(ValueError, match=r"\S"):
            load_tensors(path)
    path.write_bytes(whole)
    found, facts = load_tensors(path)
    assert facts == {"step": 3}
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


class Malicious:
    def __reduce__(self) -> Any:
        return os.system, ("touch was_here",)


def test_nothing_is_unpickled(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stopped)
    for path in checkpoints(stopped):
        path.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(HarnessError, match="is whole"):
        list(execute(CONFIG, 0, stopped.parent))
    assert not (stopped / "was_here").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_while_saving(small_disk: Path, undisturbed: dict[str, Any]) -> None:
    """Each checkpoint takes 430 kB of one megabyte: the third does not fit."""
    with pytest.raises(HarnessError, match=r"cannot save .*No space left on device.*: make room, and the same command"):
        list(execute(build_config(PLAIN, "test"), 0, small_disk))
    run_dir = only_run(small_disk)
    assert len(checkpoints(run_dir)) == 2
    assert not list(run_dir.glob(".*.writing"))
    evaluations = [e["step"] for e in read_events(run_dir) if e["event"] == "evaluation"]
    assert evaluations[-1] > int(checkpoints(run_dir)[-1].stem.split("-")[1])
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    list(execute(CONFIG, 0, small_disk))
    assert outcome(run_dir) == undisturbed


def test_a_folder_that_cannot_be_written(small_disk: Path) -> None:
    """It is said before anything is trained, and what lies there stays as it is; a finished run can still be read."""
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    (result,) = [e for e in execute(CONFIG, 0, small_disk) if e.get("status")]
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    before = sorted(small_disk.rglob("*"))
    with pytest.raises(HarnessError, match=r"cannot write to .*Read-only file system.*give another --out DIR"):
        list(execute(CONFIG, 1, small_disk))
    assert list(execute(CONFIG, 0, small_disk)) == [result]
    assert sorted(small_disk.rglob("*")) == before


def test_a_clock_that_jumps_backwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's clock is replaced by one that goes back an hour at every look: durations do not come from it."""
    hours = iter(range(10_000_000_000, 0, -3600))
    monkeypatch.setattr("time.time", lambda: float(next(hours)))
    with pytest.raises(Interrupted):
        list(execute(CONFIG, 0, tmp_path, StopAfter(20)))
    result = list(execute(CONFIG, 0, tmp_path))[-1]
    assert result["status"] == "done"
    assert result["train_seconds"] > 0
    events = read_events(only_run(tmp_path))
    assert all(e["seconds"] > 0 for e in events if e["event"] == "evaluation")
    shown = [e["time"] for e in read_events(only_run(tmp_path))]
    assert shown != sorted(shown)
