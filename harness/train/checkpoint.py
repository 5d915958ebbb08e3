"""Files that hold everything a resume needs, each there whole or not at all; tensors and JSON, nothing unpickled."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.errors import HarnessError
from harness.track.record import UNFINISHED

CHECKPOINTS = "checkpoint-*.safetensors"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    damaged: dict[str, str] = field(default_factory=dict)
    """Newer ones that are not whole, and why."""


def save_checkpoint(run_dir: Path, tensors: dict[str, Tensor], facts: dict[str, Any], keep: int) -> None:
    """Save the step of facts["progress"] and keep the `keep` newest; later ones were refused when this was loaded."""
    path = run_dir / f"checkpoint-{facts['progress']['step']:09d}.safetensors"
    save_tensors(path, tensors, facts)
    earlier = [p for p in sorted(run_dir.glob(CHECKPOINTS)) if p.name <= path.name]
    for old in set(run_dir.glob(CHECKPOINTS)) - set(earlier[-keep:]):
        old.unlink()


def save_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """HarnessError where the disk takes it not; what was there before is untouched then."""
    scratch = path.with_name(f".{path.name}{UNFINISHED}")
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # one entry: safetensors writes several in any order, and the same contents would be other files
    told = json.dumps({"facts": facts, "sha256": digest(held, facts)})
    try:
        save_file(held, scratch, metadata={"saved": told})
        with scratch.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(scratch, path)
        _sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        scratch.unlink(missing_ok=True)
        raise HarnessError(
            f"cannot save {path} ({error}): make room, and the same command continues from what was saved before"
        ) from None


def digest(tensors: dict[str, Tensor], facts: Any) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, and over the facts beside them."""
    found = hashlib.sha256(json.dumps(facts).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """ValueError, with the reason, for a file that is not as it was saved."""
    try:
        with safe_open(path, "pt") as stream:
            told = json.loads((stream.metadata() or {}).get("saved", "{}"))
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(str(error)) from None
    if not isinstance(told, dict) or digest(tensors, told.get("facts")) != told.get("sha256"):
        raise ValueError("its contents are not those that were saved: the digest differs")
    return tensors, told["facts"]


def load_checkpoint(run_dir: Path) -> Checkpoint | None:
    """The newest that is whole; None where there is none at all. HarnessError where there are some, and none whole."""
    damaged: dict[str, str] = {}
    for path in sorted(run_dir.glob(CHECKPOINTS), reverse=True):
        try:
            return Checkpoint(*load_tensors(path), damaged)
        except ValueError as error:
            damaged[path.name] = str(error)
    if damaged:
        told = "; ".join(f"{name}: {reason}" for name, reason in damaged.items())
        raise HarnessError(f"no checkpoint in {run_dir} is whole ({told}): remove them to start this run again")
    return None


def drop_checkpoints(run_dir: Path) -> None:
    for path in run_dir.glob(CHECKPOINTS):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """The new name is on the disk too."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
