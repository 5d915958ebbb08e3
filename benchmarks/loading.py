"""DALI beside torchvision with as many threads and the same pixels; and training on real beside synthetic images.

HARNESS_DATA names a folder with imagenette/ (small images), hymenoptera/ (photographs) and cifar10/; without
it, JPEG files of noise are made, and digits are what is real. Both decoders have as many threads as there are
cores: with fewer, the one that keeps more of them busy would win.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.contenders import Stepping, device, job_of, on
from benchmarks.figures import Figure, ratios, show, take_turns
from harness.config.schema import DataConfig
from harness.data.batches import Batch, Loader, Share
from harness.data.open import open_data
from harness.train.profile import wait_for

REAL = ("imagenette", "hymenoptera")
TOLERANCE = 1.5
"""Mean difference of two decoders in grey levels, as the tests have it."""


def run(smoke: bool) -> dict[str, Any]:
    with TemporaryDirectory() as made:
        root = os.environ.get("HARNESS_DATA")
        folders = [name for name in REAL if root is not None and (Path(root) / name).is_dir()]
        if root is None or not folders:
            root, folders = made, ["noise"]
            make_images(Path(made) / "noise", 32 if smoke else 512)
        figures = [figure for folder in folders for figure in decoders(root, folder, smoke)]
        figures += real_beside_synthetic(os.environ.get("HARNESS_DATA"), smoke)
    show("loading", figures)
    return {"images": folders, "figures": [figure.plain() for figure in figures]}


def make_images(root: Path, n: int) -> None:
    """JPEGs of smooth noise, 400 x 500."""
    rng = np.random.default_rng(0)
    for split, label in ((s, c) for s in ("train", "val") for c in ("a", "b")):
        (root / split / label).mkdir(parents=True)
        for i in range(n // 2):
            small = Image.fromarray(rng.integers(0, 256, (25, 20, 3), dtype=np.uint8))
            small.resize((500, 400)).save(root / split / label / f"{i}.jpg", quality=90)


def decoders(root: str, folder: str, smoke: bool) -> Iterator[Figure]:
    size, batch, n = (32, 8, 2) if smoke else (224, 64, 16)
    config = DataConfig(name="imagefolder", root=root, folder=folder, image_size=size, batch_size=batch, flip=True)
    loaders = {
        name: open_data(config.model_copy(update={"loader": name}), 0, Share(), device(), batch)
        for name in ("dali", "torchvision")
    }
    first, second = (next(iter(loader.train(1))).images for loader in loaders.values())
    differ = float((first - second).abs().mean()) * 255 * 0.226
    assert differ < TOLERANCE, f"the decoders differ by {differ:.2f} grey levels"
    feeds = {name: feed(loader) for name, loader in loaders.items()}
    taken = take_turns({name: lambda f=f: take(f, n) for name, f in feeds.items()}, rounds=2 if smoke else 9)
    rate = batch * n / sorted(taken["dali"])[len(taken["dali"]) // 2]
    yield Figure(
        f"images/s of DALI over torchvision: {folder}", ratios(taken["torchvision"], taken["dali"]), 1.2, 1.5,
        at_least=True, note=f"{rate:,.0f} images/s; {differ:.2f} grey levels apart",
    )  # fmt: skip


def feed(loader: Loader) -> Iterator[Batch]:
    epoch = 0
    while True:
        epoch += 1
        yield from loader.train(epoch)


def take(batches: Iterator[Batch], n: int) -> None:
    for _ in range(n):
        batch = next(batches)
    wait_for(batch.images.device)


def real_beside_synthetic(root: str | None, smoke: bool) -> Iterator[Figure]:
    """The same network and augmentation; the images of one run lie in files, or were drawn."""
    augmented = {"pad": 4, "flip": True}
    cases: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("digits", {"name": "digits"}, {"image_size": 8, "n_images": 1199})
    ]
    if root is not None and not smoke:
        cases = [("CIFAR-10", {"name": "cifar10", "root": root}, {"n_images": 45_000})]
        folder = {"name": "imagefolder", "root": root, "folder": "imagenette", "image_size": 64, "flip": True}
        cases.append(("image files of 64 pixels", folder, {"image_size": 64, "n_images": 8192, "flip": True}))
    for name, real, synthetic in cases:
        more = augmented if real["name"] != "imagefolder" else {}
        width = 2 if smoke else on(64, 16)
        jobs = {
            "real": job_of(model={"width": width}, data={"batch_size": 128, **real, **more}),
            "synthetic": job_of(model={"width": width}, data={"batch_size": 128, **synthetic, **more}),
        }
        n = 1 if smoke else on(30, 3)
        taken = take_turns({which: Stepping(job, n) for which, job in jobs.items()}, rounds=2 if smoke else 9)
        yield Figure(
            f"images/s, real over synthetic: {name}", ratios(taken["synthetic"], taken["real"]), 0.97, 0.99,
            at_least=True,
        )  # fmt: skip
