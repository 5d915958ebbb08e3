"""One file that holds everything a resume needs, there whole or not at all; tensors and JSON, nothing unpickled."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.errors import HarnessError

CHECKPOINT = "checkpoint.safetensors"


def save_checkpoint(run_dir: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    save_tensors(run_dir / CHECKPOINT, tensors, facts)


def save_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    scratch = path.with_name(f".{path.name}.writing")
    save_file({k: v.contiguous() for k, v in tensors.items()}, scratch, metadata={"facts": json.dumps(facts)})
    with scratch.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(scratch, path)


def load_checkpoint(run_dir: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    path = run_dir / CHECKPOINT
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as stream:
            return {k: stream.get_tensor(k) for k in stream.keys()}, json.loads(stream.metadata()["facts"])  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise HarnessError(f"{path} cannot be read ({error}): remove it to start this run again") from None


def drop_checkpoint(run_dir: Path) -> None:
    (run_dir / CHECKPOINT).unlink(missing_ok=True)
