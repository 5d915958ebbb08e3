"""What is wrong with a folder of images, or with its shards: every image decoded, every class counted."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from harness.data.folder import ImageFile
from harness.data.shards import read_manifest
from harness.data.sizes import IMAGENET

PER_CLASS = {"train": (732, 1300), "val": (50, 50)}
"""Least and most images of a class of ILSVRC 2012."""


def decode_faults(files: list[ImageFile], threads: int) -> Iterator[str | None]:
    """For each image, in order, what keeps it from being decoded whole."""

    def decode(file: ImageFile) -> str | None:
        try:
            with Image.open(io.BytesIO(file.content().tobytes())) as image:
                image.convert("RGB").load()
                if image.size != (file.width, file.height):
                    return (
                        f"{file.shown}: {image.size[0]} x {image.size[1]} pixels, expected {file.width} x {file.height}"
                    )
        except Exception as fault:  # PIL raises many kinds for what is not an image
            return f"{file.shown}: {str(fault) or type(fault).__name__}"
        return None

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(decode, files)


def shard_faults(folder: Path) -> Iterator[str]:
    """Shards that are not what was written."""
    for line in (line for of in read_manifest(folder)["splits"].values() for line in of):
        path = folder / line["file"]
        if not path.exists():
            yield f"{path}: missing"
            continue
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != line["sha256"]:
            yield f"{path}: its SHA-256 is {found[:12]}, the manifest says {line['sha256'][:12]}"


def count_faults(classes: tuple[str, ...], splits: dict[str, list[ImageFile]]) -> Iterator[str]:
    """Classes without images; of a thousand classes, whatever differs from ILSVRC 2012's own counts."""
    official = dict(zip(("train", "val"), IMAGENET[:2], strict=True))
    for split, files in splits.items():
        counts = Counter(file.label for file in files)
        empty = [name for label, name in enumerate(classes) if not counts[label]]
        if empty:
            yield f"{split}: no images of {', '.join(empty[:5])}" + (f" and {len(empty) - 5} more" if empty[5:] else "")
        if len(classes) != IMAGENET[2]:
            continue
        if len(files) != official[split]:
            yield f"{split}: {len(files):,} images, ILSVRC 2012 has {official[split]:,}"
        least, most = PER_CLASS[split]
        odd = [(name, counts[label]) for label, name in enumerate(classes) if not least <= counts[label] <= most]
        for name, n in odd[:5]:
            yield f"{split}: {n} images of {name}, expected " + (str(most) if least == most else f"{least} to {most}")
        if odd[5:]:
            yield f"{split}: {len(odd) - 5} more classes of unexpected size"
