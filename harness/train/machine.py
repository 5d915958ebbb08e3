"""What executes a run: device, versions, commit."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import socket
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from harness.train.ranks import Ranks

NAME_BYTES = 64
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's mallopt."""
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


def keep_memory() -> None:
    """Keep what a step frees for the next step, on glibc.

    By default it goes back to the system, which hands it out again page by page, zeroed: thousands of faults a step,
    more for a masked network, whose weights are new tensors each step. Whoever set malloc in the environment is left
    alone.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None and platform.libc_ver()[0] == "glibc":
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


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


def hosts_of(ranks: Ranks, device: torch.device) -> list[str]:
    """Names of the machines that the ranks are on, in the order of the first rank on each; asked by all ranks."""
    name = socket.gethostname().encode()[:NAME_BYTES].ljust(NAME_BYTES)
    named = ranks.gather(torch.tensor(list(name), dtype=torch.uint8, device=device))
    return list(dict.fromkeys(bytes(part.tolist()).decode().strip() for part in named))


def gpu_name(device: torch.device) -> str:
    """Empty for a CPU: those may differ within a run."""
    return device_name(device) if device.type == "cuda" else ""


@cache
def code_digest() -> str:
    """Of this project's Python files as they lie here: copies on other nodes have no commit."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    for path in sorted(path for folder in ("harness", "baselines", "east") for path in (root / folder).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def software() -> str:
    """In a line, what must be the same on all ranks."""
    found = versions()
    shown = ", ".join(f"{name} {found[name]}" for name in ("sparsity-harness", "torch") if name in found)
    return f"{shown}, code {code_digest()}"


NETWORK = ("NCCL_", "TORCH_NCCL_", "GLOO_", "FI_", "UCX_")


def network_settings() -> dict[str, str]:
    """What the environment tells the libraries that ranks talk through."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(NETWORK)}
