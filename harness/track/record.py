"""The record of a run, the one place its facts are written first: JSON lines beside the checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from harness.config import build_config, fingerprint
from harness.errors import HarnessError

RECORD = "record.jsonl"
RESULT = "result.json"
VERIFIED = "verified.json"
STOP_NOTE = ".stop"
"""A file of this name in a run's folder asks the run to save and leave."""


class Record:
    """Append-only while a run goes on; a resume rewinds it to where its checkpoint was taken."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / RECORD

    def append(self, event: str, **facts: Any) -> dict[str, Any]:
        line = {"event": event, "time": round(time.time(), 3), **facts}
        with self.path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        return line

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def rewind(self, size: int) -> None:
        if self.path.exists():
            os.truncate(self.path, min(size, self.size()))


def read_events(run_dir: Path) -> Iterator[dict[str, Any]]:
    """Whole lines only: a line being written is left for the next reading."""
    path = run_dir / RECORD
    if not path.exists():
        return
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def make_writable(folder: Path) -> Path:
    """Make a folder and see that it can be written to; HarnessError says why not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise HarnessError(f"cannot write to {folder}: {error.strerror}; give another --out DIR") from None
    return folder


def write_whole(path: Path, text: str) -> None:
    """A file is there whole or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with scratch.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(scratch, path)


def write_result(run_dir: Path, result: dict[str, Any]) -> None:
    write_whole(run_dir / RESULT, json.dumps(result, indent=1) + "\n")


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_verified(run_dir: Path) -> bool:
    """Whether its last re-evaluation agreed with its result, and that result is still the one it has."""
    path = run_dir / VERIFIED
    if not path.exists():
        return False
    found = json.loads(path.read_text())
    return not found["faults"] and bool(found["result_sha256"] == sha256(run_dir / RESULT))


def end_early(run_dir: Path, status: str, reason: str) -> None:
    """Close the record of a run that nobody trains any more; one without a result gets one."""
    events = list(read_events(run_dir))
    if not events:
        return
    step = max((e["step"] for e in events if e["event"] == "evaluation"), default=0)
    if events[-1]["event"] != "end":
        Record(run_dir).append("end", step=step, status=status, reason=reason)
    if read_result(run_dir) is not None:
        return
    start = {k: v for k, v in events[0].items() if k not in ("event", "time", "total_steps")}
    write_result(run_dir, {**start, "status": status, "reason": reason, "steps": step})


def read_result(run_dir: Path) -> dict[str, Any] | None:
    path = run_dir / RESULT
    return json.loads(path.read_text()) if path.exists() else None


def all_results(out: Path) -> list[dict[str, Any]]:
    """Results of every run under `out`, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted(out.glob(f"*/{RESULT}"))]


def results_by_fingerprint(roots: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """Results by who their configuration is today, whatever version of the harness wrote them."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for root in roots:
        for path in sorted(root.glob(f"*/{RESULT}")):
            config = path.with_name("config.yaml")
            if config.exists():  # a run that failed before it began has none
                plain = yaml.safe_load(config.read_text())
                found[fingerprint(build_config(plain, str(config)))].append(json.loads(path.read_text()))
    return found
