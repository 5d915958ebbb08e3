"""What executes a run: device, versions, commit."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("sparsity-harness", "torch", "torchvision", "numpy", "deepspeed", "ray", "nvidia-dali-cuda130")


@cache
def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def git_commit() -> str | None:
    """Commit of the harness's own checkout, '+changes' if it has uncommitted ones; None for an installed copy."""
    here = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    top = git("rev-parse", "--show-toplevel")
    if top is None or not (Path(top) / "harness" / "train" / "run.py").exists():
        return None
    commit = git("rev-parse", "HEAD")
    return f"{commit}+changes" if commit and git("status", "--porcelain", "--untracked-files=no") else commit


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "cpu"


def gpu_name(device: torch.device) -> str:
    """Empty for a CPU: those may differ within a run."""
    return device_name(device) if device.type == "cuda" else ""


def software() -> str:
    """In a line, what must be the same on all ranks."""
    found = versions()
    shown = ", ".join(f"{name} {found[name]}" for name in ("sparsity-harness", "torch") if name in found)
    return f"{shown}, commit {git_commit()}"
