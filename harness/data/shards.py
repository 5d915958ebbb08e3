"""Image folders as tar shards of WebDataset's form: some thousand large files where a folder has a million small ones.

A shard holds images as they were, byte for byte, each with its class (`00000042.jpg`, `00000042.cls`); DALI's index
(`train-00000.idx`) and our own (`train-00000.json`) lie beside it. Images are read by offset, so that order, crops and
splits are those of the folder, whatever is in which shard; they are shuffled over the shards for readers that go from
front to end.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.folder import FolderIndex, ImageFile, split_up
from harness.errors import HarnessError
from harness.sparse.noise import key_of
from harness.track.record import write_whole

MANIFEST, PLAN = "shards.json", "plan.json"
FORMAT = 1
TELL_EVERY_S = 20.0


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar file to be: which images of its split, by their place in the folder's order."""

    name: str
    numbers: tuple[int, ...]
    n_bytes: int


def plan_shards(split: str, files: list[ImageFile], shard_bytes: int) -> list[Shard]:
    """Images in an order of their own, drawn once for all, cut where a shard is full."""
    sizes = [os.stat(file.path).st_size for file in files]
    order = np.random.default_rng(key_of("shards", split, len(files))).permutation(len(files))
    shards: list[Shard] = []
    held: list[int] = []
    n_bytes = 0
    for number in order.tolist():
        if held and n_bytes + sizes[number] > shard_bytes:
            shards.append(Shard(f"{split}-{len(shards):05d}", tuple(held), n_bytes))
            held, n_bytes = [], 0
        held.append(number)
        n_bytes += sizes[number]
    return [*shards, Shard(f"{split}-{len(shards):05d}", tuple(held), n_bytes)] if held else shards


def write_shard(folder: Path, shard: Shard, files: list[ImageFile], classes: tuple[str, ...]) -> dict[str, Any]:
    """Write what is not there yet, whole or not at all; returns the shard's line in the manifest."""
    tar, index = folder / f"{shard.name}.tar", folder / f"{shard.name}.json"
    if index.exists() and tar.exists():
        held = json.loads(index.read_text())
        if tar.stat().st_size == held["bytes"]:
            return {key: held[key] for key in ("file", "n", "bytes", "sha256")}
    part, rows, lines = tar.with_suffix(".tar.part"), [], []
    with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as out:
        for number in shard.numbers:
            file = files[number]
            content, kind = Path(file.path).read_bytes(), Path(file.path).suffix.lower().replace("jpeg", "jpg")
            image = _add(out, f"{number:08d}{kind}", content)
            label = str(file.label).encode()
            cls = _add(out, f"{number:08d}.cls", label)
            rows.append([number, image, len(content), file.label, file.height, file.width])
            lines.append(
                f"{kind[1:]} {image} {len(content)} {number:08d}{kind} cls {cls} {len(label)} {number:08d}.cls"
            )
    with part.open("rb+") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        os.fsync(stream.fileno())
    part.replace(tar)
    write_whole(folder / f"{shard.name}.idx", f"v1.2 {len(lines)}\n" + "\n".join(lines) + "\n")
    line = {"file": tar.name, "n": len(rows), "bytes": tar.stat().st_size, "sha256": digest}
    write_whole(index, json.dumps({**line, "rows": rows}) + "\n")
    return line


def _add(out: tarfile.TarFile, name: str, content: bytes) -> int:
    """The place of the content in the archive."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    out.addfile(header, io.BytesIO(content))
    return int(out.offset) - (len(content) + 511) // 512 * 512


def prepare(
    target: Path, classes: tuple[str, ...], splits: dict[str, list[ImageFile]], shard_bytes: int, threads: int
) -> Iterator[tuple[int, int]]:
    """Write all shards, several at once; yields images done and in all. Given again, it goes on where it stopped."""
    plans = {split: plan_shards(split, files, shard_bytes) for split, files in splits.items()}
    needed = sum(shard.n_bytes for of in plans.values() for shard in of)
    target.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(json.dumps([FORMAT, classes, shard_bytes], sort_keys=True).encode())
    for split, files in sorted(splits.items()):
        for file in files:
            digest.update(f"{split}/{classes[file.label]}/{Path(file.path).name}\0".encode())
    plan = {"format": FORMAT, "of": digest.hexdigest()}
    if (target / PLAN).exists():
        if json.loads((target / PLAN).read_text()) != plan:
            raise HarnessError(f"{target} holds shards of other images or of another size: choose another folder")
    else:
        if needed > (free := shutil.disk_usage(target).free):
            raise HarnessError(f"{target} has {free / 1e9:.1f} GB free, the shards need {needed / 1e9:.1f} GB")
        write_whole(target / PLAN, json.dumps(plan) + "\n")
    lines: dict[str, dict[str, Any]] = {}
    done, total = 0, sum(len(files) for files in splits.values())
    with ThreadPoolExecutor(threads) as pool:
        jobs = {
            pool.submit(write_shard, target, shard, splits[split], classes): shard
            for split, of in plans.items()
            for shard in of
        }
        try:
            for job in as_completed(jobs):
                lines[jobs[job].name] = job.result()
                done += len(jobs[job].numbers)
                yield done, total
        finally:
            for job in jobs:
                job.cancel()
    held = {split: [lines[shard.name] for shard in of] for split, of in plans.items()}
    write_whole(target / MANIFEST, json.dumps({"format": FORMAT, "classes": classes, "splits": held}, indent=1) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / MANIFEST).read_text())
        if found["format"] != FORMAT:
            raise HarnessError(f"{folder / MANIFEST} is of format {found['format']}, this version reads {FORMAT}")
        return dict(found)
    except (ValueError, KeyError, TypeError) as error:
        raise HarnessError(f"{folder / MANIFEST} is damaged: {error}; prepare it again") from None


def index_shards(folder: Path, validation_fraction: float, stage: str | None) -> FolderIndex:
    """As `index_folder` of what they were made of. stage: a folder of this node to copy them to and read them from."""
    manifest = read_manifest(folder)
    place = staged(folder, manifest, Path(stage)) if stage else folder
    splits = {}
    for split, lines in manifest["splits"].items():
        rows: list[tuple[int, ImageFile]] = []
        for line in lines:
            tar = place / line["file"]
            if not tar.exists() or tar.stat().st_size != line["bytes"]:
                state = f"has {tar.stat().st_size:,} bytes" if tar.exists() else "is missing"
                raise HarnessError(f"shard {tar} {state}, expected {line['bytes']:,}: copy or prepare it again")
            held = json.loads((folder / tar.with_suffix(".json").name).read_text())
            rows.extend(
                (number, ImageFile(str(tar), label, height, width, offset, size))
                for number, offset, size, label, height, width in held["rows"]
            )
        splits[split] = [file for _, file in sorted(rows, key=lambda row: row[0])]
    return FolderIndex(tuple(manifest["classes"]), split_up(splits["train"], splits["val"], validation_fraction), ())


def staged(folder: Path, manifest: dict[str, Any], stage: Path) -> Path:
    """Copy the shards to a folder of this node, once for all its processes; what is there already stays."""
    lines = [line for of in manifest["splits"].values() for line in of]
    name = hashlib.sha256("".join(line["sha256"] for line in lines).encode()).hexdigest()[:12]
    place = stage / f"{folder.name}-{name}"
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process of this node may be copying just now
        wanted = [line for line in lines if _size(place / line["file"]) != line["bytes"]]
        needed, free = sum(line["bytes"] for line in wanted), shutil.disk_usage(place).free
        if needed > free:
            raise HarnessError(
                f"data.stage {stage} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB of {folder} are still to be "
                "copied: name another folder of this node, or leave data.stage out"
            )
        told, copied = time.monotonic(), 0
        for line in wanted:
            copy_checked(folder / line["file"], place / line["file"], line["sha256"])
            copied += line["bytes"]
            if time.monotonic() > told + TELL_EVERY_S:
                told = time.monotonic()
                print(f"staging {folder}: {copied / 1e9:.1f} of {needed / 1e9:.1f} GB", file=sys.stderr, flush=True)
    return place


def copy_checked(source: Path, target: Path, sha256: str) -> None:
    """Whole and as it was written, or not at all."""
    part = target.with_suffix(".part")
    try:
        with source.open("rb") as read, part.open("wb") as write:
            shutil.copyfileobj(read, write, 1 << 20)
        with part.open("rb") as copy:
            found = hashlib.file_digest(copy, "sha256").hexdigest()
        if found != sha256:
            raise HarnessError(
                f"shard {source} is damaged: its SHA-256 is {found[:12]}, the manifest says {sha256[:12]}"
            )
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1
