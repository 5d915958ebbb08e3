"""What this machine has of what the harness needs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

State = Literal["ok", "warning", "missing"]
GIB = 1 << 30


@dataclass(frozen=True, slots=False)
class Finding:
    state: State
    what: str
    found: str
    advice: str = ""


def examine(out: Path, data_root: str | None, tracking: str | None) -> list[Finding]:
    findings = [_python(), *_packages(), _gpus(), *_components(), *_data(data_root), *_space(out)]
    findings.append(_tracking(tracking, out))
    return findings


def _python() -> Finding:
    found = sys.version.split()[0]
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Finding("ok" if fits else "warning", "Python", found, "" if fits else "3.11 to 3.13 are tested")


def _packages() -> Iterator[Finding]:
    """Installed versions against the ranges of pyproject.toml, and the exact pins where the checkout has them."""
    pins = _pins()
    try:
        declared = [Requirement(line) for line in requires("sparsity-harness") or []]
    except PackageNotFoundError:
        yield Finding("missing", "sparsity-harness", "not installed", "pip install -e .")
        return
    for need in declared:
        if need.marker is not None and not any(need.marker.evaluate({"extra": e}) for e in ("", "deepspeed")):
            continue
        try:
            found = version(need.name)
        except PackageNotFoundError:
            yield Finding("missing", need.name, "not installed", "make setup")
            continue
        pin = pins.get(need.name.lower())
        if found not in need.specifier:
            yield Finding("warning", need.name, found, f"needs {need.specifier}: make setup")
        elif pin is not None and found.split("+")[0] != pin:
            yield Finding("warning", need.name, found, f"tested with {pin}")
        else:
            yield Finding("ok", need.name, found)


def _pins() -> dict[str, str]:
    path = Path(__file__).parent.parent / "constraints.txt"
    if not path.exists():
        return {}
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    return {name.lower(): pin for name, _, pin in (line.partition("==") for line in lines) if pin}


def _gpus() -> Finding:
    import torch

    n = torch.cuda.device_count()
    if n:
        names = ", ".join(sorted({torch.cuda.get_device_name(i) for i in range(n)}))
        return Finding("ok", "GPUs", f"{n}: {names}")
    return Finding("warning", "GPUs", "none", "runs use the CPU; large ones need a GPU")


def _components() -> Iterator[Finding]:
    """Import what is heavy and may be broken though installed."""
    import importlib

    for name, module in (("DALI", "nvidia.dali"), ("DeepSpeed", "deepspeed"), ("Ray", "ray"), ("MLflow", "mlflow")):
        try:
            with redirect_stdout(sys.stderr):  # DeepSpeed talks on stdout
                importlib.import_module(module)
            yield Finding("ok", f"{name} imports", "yes")
        except Exception as error:
            yield Finding("missing", f"{name} imports", f"{type(error).__name__}: {error}"[:80], "make setup")


def _data(root: str | None) -> Iterator[Finding]:
    yield Finding("ok", "digits", "1,797 images (scikit-learn)")
    if root is None:
        yield Finding("warning", "data root", "not set", "--data-root DIR or HARNESS_DATA for MNIST, CIFAR, ImageNet")
        return
    from harness.config.schema import DataConfig
    from harness.data.sources import read_cifar10, read_cifar100, read_mnist
    from harness.errors import HarnessError

    if not Path(root).is_dir():
        yield Finding("missing", "data root", root, "the folder does not exist")
        return
    for name, reader in (("mnist", read_mnist), ("cifar10", read_cifar10), ("cifar100", read_cifar100)):
        try:
            sizes = {split: len(y) for split, (_, y) in reader(DataConfig(name=name), root).splits.items()}
            yield Finding("ok", name, ", ".join(f"{n:,} {split}" for split, n in sizes.items()))
        except HarnessError as error:
            absent = str(error).startswith("data root")
            yield Finding("warning", name, "not there" if absent else "damaged", "" if absent else str(error)[:100])
    for folder in sorted(p.parent for p in Path(root).glob("*/train") if (p.parent / "val").is_dir()):
        classes = [c for c in (folder / "train").iterdir() if c.is_dir()]
        n = sum(len(os.listdir(c)) for c in classes)
        yield Finding("ok", f"imagefolder {folder.name}", f"{len(classes)} classes, {n:,} training images")


def _space(out: Path) -> Iterator[Finding]:
    place = out
    while not place.exists():
        place = place.parent
    for what, path, least in (("free disk for runs", place, 5), ("shared memory", Path("/dev/shm"), 1)):
        if not path.exists():
            continue
        free = shutil.disk_usage(path).free / GIB
        enough = free >= least
        advice = "" if enough else f"at least {least} GiB is wanted"
        yield Finding("ok" if enough else "warning", what, f"{free:.1f} GiB at {path}", advice)


def _tracking(uri: str | None, out: Path) -> Finding:
    from harness.track.mirror import Mirror, default_uri

    if uri is None and not (out / "mlflow.db").exists():
        return Finding("ok", "tracking", "none yet; a SQLite file is made with the first run")
    uri = uri or default_uri(out)
    try:
        Mirror(uri, "sparsity-harness", out).connect()
        return Finding("ok", "tracking", uri)
    except Exception as error:
        return Finding("warning", "tracking", f"{uri} does not answer: {str(error).splitlines()[0][:80]}",
                       "runs go on without; `harness sync` sends their records later")  # fmt: skip
