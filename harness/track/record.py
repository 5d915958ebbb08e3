"""The record of a run, the one place its facts are written first: JSON lines beside the checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from harness.config import RunConfig, build_config, fingerprint, run_id, setting_label, setting_of
from harness.config.schema import model_label, shown_name
from harness.errors import HarnessError

CONFIG = "config.yaml"
RECORD = "record.jsonl"
RESULT = "result.json"
VERIFIED = "verified.json"
SCHEMA = 2
"""Of results. 2: who the setting is, exempt weights and test images; earlier ones get what their config tells."""

TEST_IMAGES = {"digits": 299, "mnist": 10_000, "cifar10": 10_000, "cifar100": 10_000}
"""Of data sets whose test set is one thing for all; results of schema 1 do not tell."""

FACTS: dict[str, type | tuple[type, ...]] = {
    "schema": (int, type(None)), "status": str, "run_id": str, "fingerprint": str, "method": str, "model": str,
    "data": str, "seed": int, "density": (int, float),
}  # fmt: skip
"""What every result says, and as what."""

UNFINISHED = ".writing"
"""Ends the names of files that are not whole yet; a process that is killed leaves some."""

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
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            event = json.loads(line)
            if not isinstance(event, dict) or not isinstance(event.get("event"), str):
                raise ValueError("it is no event")
        except ValueError as error:
            raise HarnessError(f"{path}, line {number}, cannot be read ({error}): move the run's folder away") from None
        yield event


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
    scratch = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    with scratch.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(scratch, path)


def facts_of(config: RunConfig, seed: int) -> dict[str, Any]:
    """What a run is, as its result and the leaderboard name it."""
    return {
        "schema": SCHEMA,
        "run_id": run_id(config, seed),
        "fingerprint": fingerprint(config),
        "setting": setting_of(config),
        "setting_label": setting_label(config),
        "method": shown_name(config.method),
        "model": model_label(config),
        "data": f"{config.data.name}:{config.data.folder}" if config.data.name == "imagefolder" else config.data.name,
        "seed": seed,
        "density": config.method.density,
    }


def write_result(run_dir: Path, result: dict[str, Any]) -> None:
    write_whole(run_dir / RESULT, json.dumps(result, indent=1) + "\n")


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verification(run_dir: Path) -> list[str] | None:
    """What the last re-evaluation of a run found wrong: nothing where it agreed. None where there was none."""
    path = run_dir / VERIFIED
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    if found["result_sha256"] != sha256(run_dir / RESULT):
        return ["its result was changed after it was verified"]
    return list(found["faults"])


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
    """A run's result in today's form; None where it has none. HarnessError where it cannot be read."""
    path = run_dir / RESULT
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_bytes())
        if not isinstance(result, dict):
            raise ValueError("it is no mapping")
        for name, kinds in FACTS.items():
            if not isinstance(result.get(name), kinds):
                raise ValueError(f"its {name} is {result.get(name)!r:.40}")
    except ValueError as error:
        raise HarnessError(f"{path} is no result ({error}): restore it, or move the run's folder away") from None
    return upgraded(result, run_dir / CONFIG)


def upgraded(result: dict[str, Any], config: Path | None = None) -> dict[str, Any]:
    """A result of any schema up to today's as one of today's; HarnessError for a later one."""
    schema = result.get("schema") or 1
    if schema > SCHEMA:
        raise HarnessError(
            f"the result of run {result.get('run_id')} has schema {schema}, this harness reads {SCHEMA}: update it"
        )
    if schema == SCHEMA:
        return result
    known = {"setting": "", "setting_label": "setting not recorded", "n_test": TEST_IMAGES.get(result.get("data", ""))}
    if config is not None and config.exists():
        with suppress(HarnessError):  # of options that are gone: what the run was cannot be told
            built = build_config(yaml.safe_load(config.read_text()), str(config))
            known |= {"setting": setting_of(built), "setting_label": setting_label(built)}
    return {**known, **result, "schema": SCHEMA}


def all_results(out: Path) -> list[dict[str, Any]]:
    """Results of every run under `out`, in the order of their names."""
    return [result for path in sorted(out.glob(f"*/{RESULT}")) if (result := read_result(path.parent)) is not None]


def unfinished(out: Path) -> list[str]:
    """Runs under `out` that began and have no result: they go on, or were stopped."""
    return [path.parent.name for path in sorted(out.glob(f"*/{RECORD}")) if not path.with_name(RESULT).exists()]


def results_by_fingerprint(roots: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """Results by who their configuration is today, whatever version of the harness wrote them."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for root in roots:
        for path in sorted(root.glob(f"*/{RESULT}")):
            config, result = path.with_name(CONFIG), read_result(path.parent)
            if config.exists() and result is not None:  # a run that failed before it began has no configuration
                plain = yaml.safe_load(config.read_text())
                found[fingerprint(build_config(plain, str(config)))].append(result)
    return found
