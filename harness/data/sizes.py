"""How many images a data set has and what they look like, without reading them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from harness.config import registry
from harness.config.schema import DataConfig
from harness.data.batches import Split
from harness.data.shards import MANIFEST, read_manifest
from harness.data.sources import find_data
from harness.errors import HarnessError
from harness.models.shape import InputShape

IMAGENET = (1_281_167, 50_000, 1000)
"""Training images, validation images (our test set), classes of ILSVRC 2012."""


@dataclass(frozen=True, slots=True)
class Sizes:
    n: Mapping[Split, int]
    inputs: InputShape
    resident_bytes: int = 0
    """Held on the device while training."""


def sizes_of(config: DataConfig) -> Sizes:
    """Of the files that are there; of the published set where they are not."""
    root = config.root or os.environ.get("HARNESS_DATA")
    if config.name == "imagefolder":
        n_train, n_test, n_classes = _folder(config, root)
        every = max(2, round(1 / config.validation_fraction))
        held_out = n_train // every
        n: dict[Split, int] = {"train": n_train - held_out, "validation": held_out, "test": n_test}
        return Sizes(n, InputShape(3, config.image_size or 224, n_classes))
    if config.name == "mnist":
        n_held = round(60_000 * config.validation_fraction)
        return _resident({"train": 60_000 - n_held, "validation": n_held, "test": 10_000}, InputShape(1, 28, 10))
    if config.name in ("cifar10", "cifar100"):
        n_classes = 10 if config.name == "cifar10" else 100
        return _resident({"train": 45_000, "validation": 5_000, "test": 10_000}, InputShape(3, 32, n_classes))
    images = registry.load("data set", config.name, registry.DATA)(config, root)
    channels, size = images.splits["train"][0].shape[1:3]
    return _resident({s: len(y) for s, (_, y) in images.splits.items()}, InputShape(channels, size, images.n_classes))


def _resident(n: dict[Split, int], inputs: InputShape) -> Sizes:
    return Sizes(n, inputs, sum(n.values()) * inputs.channels * inputs.size**2)


def _folder(config: DataConfig, root: str | None) -> tuple[int, int, int]:
    if root is None or not os.path.isdir(os.path.join(root, config.folder)):
        if config.folder == "imagenet":
            return IMAGENET
        raise HarnessError(f"data.folder {config.folder} is not there to be counted: give --data-root DIR")
    base = find_data(root, config.folder)
    if (base / MANIFEST).exists():
        manifest = read_manifest(base)
        n = {split: sum(line["n"] for line in lines) for split, lines in manifest["splits"].items()}
        return n["train"], n["val"], len(manifest["classes"])
    counts = {split: [len(os.listdir(c)) for c in os.scandir(base / split) if c.is_dir()] for split in ("train", "val")}
    return sum(counts["train"]), sum(counts["val"]), len(counts["train"])
