"""Data sets small enough to hold whole: digits, MNIST, CIFAR-10, CIFAR-100 from their original files; synthetic."""

from __future__ import annotations

import gzip
import pickle
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from harness.config.schema import DataConfig
from harness.data.batches import Split
from harness.errors import HarnessError
from harness.sparse.noise import key_of


@dataclass(frozen=True, slots=True)
class Images:
    """images: uint8 [n, c, h, w]; labels: int64 [n]. A pixel is normalised as (value / peak - mean) / std."""

    splits: dict[Split, tuple[np.ndarray, np.ndarray]]
    n_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    peak: float = 255.0


def find_data(root: str | None, *candidates: str) -> Path:
    """The first of root/candidate that exists; a clear error when there is no root, or nothing of the kind in it."""
    if root is None:
        raise HarnessError("this data set needs a folder: give --data-root DIR or set HARNESS_DATA")
    base = Path(root)
    if not base.is_dir():
        raise HarnessError(f"data root {base} is not a folder: give --data-root DIR or set HARNESS_DATA")
    for candidate in candidates:
        if (base / candidate).is_dir():
            return base / candidate
    found = sorted(p.name for p in base.iterdir())[:8]
    raise HarnessError(
        f"data root {base} holds none of {', '.join(candidates)}; found: {', '.join(found) or 'nothing'}"
    )


PLACES = {
    "mnist": ("MNIST/raw", "mnist/MNIST/raw", "mnist/raw", "raw"),
    "cifar10": ("cifar-10-batches-py", "cifar10/cifar-10-batches-py"),
    "cifar100": ("cifar-100-python", "cifar100/cifar-100-python"),
}
"""Where in the data root a data set of original files may lie."""


def place_of(config: DataConfig, root: str | None) -> Path | None:
    """The folder that a data section reads from, None if it needs none; HarnessError where it is not there."""
    candidates = (config.folder,) if config.name == "imagefolder" else PLACES.get(config.name, ())
    return find_data(root, *candidates) if candidates else None


def read_digits(config: DataConfig, root: str | None) -> Images:
    """scikit-learn's 1,797 handwritten digits, 8 x 8, 16 grey levels.

    Split by index i, as writers follow one another in the file: i % 6 == 4 validates, 5 tests, the rest trains.
    """
    # read as the file it is: importing scikit-learn takes as long as importing torch
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise HarnessError("digits come with scikit-learn, which is not installed: make setup")
    table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", np.uint8, delimiter=",")
    images, labels = table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1].astype(np.int64)
    turn = np.arange(len(labels)) % 6
    splits: dict[Split, tuple[np.ndarray, np.ndarray]] = {
        "train": (images[turn < 4], labels[turn < 4]),
        "validation": (images[turn == 4], labels[turn == 4]),
        "test": (images[turn == 5], labels[turn == 5]),
    }
    return Images(splits, 10, (0.305,), (0.376,), peak=16.0)


def _hold_out(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], n_validation: int
) -> dict[Split, tuple[np.ndarray, np.ndarray]]:
    """The last `n_validation` training images validate."""
    images, labels = train
    cut = len(labels) - n_validation
    return {"train": (images[:cut], labels[:cut]), "validation": (images[cut:], labels[cut:]), "test": test}


def _read_idx(path: Path) -> np.ndarray:
    for file, opener in ((path, open), (path.with_name(path.name + ".gz"), gzip.open)):
        if file.is_file():
            with opener(file, "rb") as stream:
                data = stream.read()
            n_dims = data[3]
            shape = tuple(int.from_bytes(data[4 + 4 * d : 8 + 4 * d], "big") for d in range(n_dims))
            body = np.frombuffer(data, np.uint8, offset=4 + 4 * n_dims)
            if body.size != np.prod(shape):
                raise HarnessError(f"{file} is damaged: {body.size} bytes for shape {shape}")
            return body.reshape(shape)
    raise HarnessError(f"no MNIST file at {path} (or {path.name}.gz)")


def read_mnist(config: DataConfig, root: str | None) -> Images:
    """The original idx files; the last `validation_fraction` of the 60,000 training images validates."""
    raw = find_data(root, *PLACES["mnist"])

    def read(prefix: str) -> tuple[np.ndarray, np.ndarray]:
        images = _read_idx(raw / f"{prefix}-images-idx3-ubyte")
        return images[:, None], _read_idx(raw / f"{prefix}-labels-idx1-ubyte").astype(np.int64)

    train = read("train")
    splits = _hold_out(train, read("t10k"), round(len(train[1]) * config.validation_fraction))
    return Images(splits, 10, (0.1307,), (0.3081,))


class _ArraysOnly(pickle.Unpickler):
    """Reads the plain arrays of the CIFAR files and refuses to build anything else."""

    allowed = frozenset({("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"),
                         ("_codecs", "encode")})  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a CIFAR file")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _read_cifar(path: Path, label_key: str) -> tuple[np.ndarray, np.ndarray]:
    if not path.is_file():
        raise HarnessError(f"no CIFAR file at {path}")
    try:
        with path.open("rb") as stream:
            content = _ArraysOnly(stream, encoding="latin1").load()
        return content["data"].reshape(-1, 3, 32, 32), np.asarray(content[label_key], np.int64)
    except (pickle.UnpicklingError, EOFError, KeyError, ValueError, AttributeError) as error:
        raise HarnessError(f"{path} is not an original CIFAR file: {error}") from None


def read_cifar10(config: DataConfig, root: str | None) -> Images:
    """First 45,000 images train, last 5,000 validate."""
    base = find_data(root, *PLACES["cifar10"])
    parts = [_read_cifar(base / f"data_batch_{i}", "labels") for i in range(1, 6)]
    train = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    splits = _hold_out(train, _read_cifar(base / "test_batch", "labels"), len(train[1]) // 10)
    return Images(splits, 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def read_cifar100(config: DataConfig, root: str | None) -> Images:
    """First 45,000 images train, last 5,000 validate: fixed, where the EAST code draws it anew for each seed."""
    base = find_data(root, *PLACES["cifar100"])
    train = _read_cifar(base / "train", "fine_labels")
    splits = _hold_out(train, _read_cifar(base / "test", "fine_labels"), len(train[1]) // 10)
    return Images(splits, 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


def read_synthetic(config: DataConfig, root: str | None) -> Images:
    """Noise around one random prototype per class: learnable, and of any size. The same for every run."""
    size = config.image_size or 32
    noise = np.random.default_rng(key_of("synthetic", size, config.n_classes))
    prototypes = noise.integers(64, 192, (config.n_classes, 3, size, size))

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(n, dtype=np.int64) % config.n_classes
        images = prototypes[labels] + noise.integers(-48, 49, (n, 3, size, size))
        return images.astype(np.uint8), labels

    n_held = max(config.n_classes, config.n_images // 8)
    splits: dict[Split, tuple[np.ndarray, np.ndarray]] = {
        "train": draw(config.n_images), "validation": draw(n_held), "test": draw(n_held)
    }  # fmt: skip
    return Images(splits, config.n_classes, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
