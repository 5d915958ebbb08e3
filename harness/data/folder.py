"""Image folders in the ImageNet layout: an index that is checked before anything trains."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from harness.config.schema import DataConfig
from harness.data.batches import Split
from harness.data.sources import find_data
from harness.errors import HarnessError

SUFFIXES = (".jpeg", ".jpg", ".png")


class CorruptImageError(Exception):
    """A file that is not a whole image; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image that is a file, or `size` bytes from `offset` on of a larger one."""

    path: str
    label: int
    height: int
    width: int
    offset: int = 0
    size: int | None = None

    @property
    def shown(self) -> str:
        return self.path if self.size is None else f"{self.path} (at byte {self.offset})"

    def content(self) -> np.ndarray:
        """Its bytes, uint8."""
        return np.fromfile(self.path, np.uint8, count=-1 if self.size is None else self.size, offset=self.offset)


@dataclass(frozen=True, slots=True)
class FolderIndex:
    classes: tuple[str, ...]
    splits: dict[Split, list[ImageFile]]
    skipped: tuple[str, ...]


def index_folder(config: DataConfig, root: str | None) -> FolderIndex:
    """Image files under train/<class>/ and val/<class>/, or shards made of them; val is the test set, part of train
    validates."""
    from harness.data.shards import MANIFEST, index_shards

    base = find_data(root, config.folder)
    if (base / MANIFEST).exists():
        return index_shards(base, config.validation_fraction, config.stage or os.environ.get("HARNESS_STAGE"))
    classes, train, test, skipped = list_folder(base, config.on_corrupt)
    return FolderIndex(classes, split_up(train, test, config.validation_fraction), skipped)


def list_folder(
    base: Path, on_corrupt: str, val_labels: dict[str, str] | None = None
) -> tuple[tuple[str, ...], list[ImageFile], list[ImageFile], tuple[str, ...]]:
    """Classes, images of train and of val, and what was left out, of base/{train,val}/<class>/*.

    Every file's header and end are read, so that a broken image is known now and not in the third hour.
    Raises HarnessError for a missing or empty folder, a class of val that is not in train, or, unless
    on_corrupt is 'skip', a broken image, which is named. val_labels: class by file name, where all images of val lie in
    one folder.
    """
    classes = _class_folders(base / "train")
    unknown = sorted(set(val_labels.values() if val_labels else _class_folders(base / "val")) - set(classes))
    if unknown:
        raise HarnessError(f"{base / 'val'}: class '{unknown[0]}' is not in train ({len(unknown)} such classes)")
    label_of = {name: label for label, name in enumerate(classes)}
    skipped: list[str] = []
    train = _inspect(base / "train", _by_class(base / "train", label_of), on_corrupt, skipped)
    if val_labels is None:
        val = _by_class(base / "val", label_of)
    else:
        val = _by_name(base / "val", {name: label_of[label] for name, label in val_labels.items()})
    return tuple(classes), train, _inspect(base / "val", val, on_corrupt, skipped), tuple(skipped)


def read_val_labels(path: Path) -> dict[str, str]:
    """Class by file name, of lines 'name class', or of Kaggle's LOC_val_solution.csv, 'name,class x y x y ...'."""
    labels: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.replace(",", " ").split()
        if not words or words[0] == "ImageId":
            continue
        if len(words) < 2:
            raise HarnessError(f"{path}:{number}: '{line}' is not a file name and a class")
        labels[Path(words[0]).stem] = words[1]
    return labels


def split_up(train: list[ImageFile], test: list[ImageFile], validation_fraction: float) -> dict[Split, list[ImageFile]]:
    every = max(2, round(1 / validation_fraction))
    held_out = {i for i in range(len(train)) if i % every == every - 1}
    return {
        "train": [f for i, f in enumerate(train) if i not in held_out],
        "validation": [f for i, f in enumerate(train) if i in held_out],
        "test": test,
    }


def _class_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise HarnessError(f"no folder {folder}: expected <root>/<data.folder>/train/<class>/ and .../val/<class>/")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise HarnessError(f"{folder} has no class folders: expected {folder}/<class>/*.JPEG")
    return names


def _by_class(folder: Path, label_of: dict[str, int]) -> list[tuple[str, int]]:
    listed = {name: _images_in(folder / name) for name in label_of if (folder / name).is_dir()}
    empty = [name for name, found in listed.items() if not found]
    if folder.name == "train" and 0 < len(empty) < len(listed):
        raise HarnessError(f"{folder}: class '{empty[0]}' has no images ({len(empty)} such classes)")
    return [(path, label_of[name]) for name, found in listed.items() for path in found]


def _by_name(folder: Path, label_of: dict[str, int]) -> list[tuple[str, int]]:
    paths = _images_in(folder)
    unknown = [path for path in paths if Path(path).stem not in label_of]
    if unknown:
        raise HarnessError(f"{unknown[0]} has no label ({len(unknown)} such images)")
    # in the order that class folders would have: the same data set, however it lies
    return sorted(((path, label_of[Path(path).stem]) for path in paths), key=lambda entry: (entry[1], entry[0]))


def _inspect(folder: Path, paths: list[tuple[str, int]], on_corrupt: str, skipped: list[str]) -> list[ImageFile]:
    if not paths:
        raise HarnessError(f"{folder} holds no images ({', '.join(SUFFIXES)})")

    def inspect(entry: tuple[str, int]) -> ImageFile | str:
        try:
            height, width = check_image(entry[0])
        except CorruptImageError as fault:
            return f"{entry[0]}: {fault}"
        return ImageFile(entry[0], entry[1], height, width)

    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        found = list(pool.map(inspect, paths, chunksize=64))
    faults = [f for f in found if isinstance(f, str)]
    if faults and on_corrupt == "error":
        raise HarnessError(f"broken image {faults[0]} ({len(faults)} in all); data.on_corrupt: skip leaves them out")
    skipped.extend(faults)
    return [f for f in found if isinstance(f, ImageFile)]


def _images_in(folder: Path) -> list[str]:
    """Paths in the order of their names; a link that leads nowhere is one, and will be found broken."""
    found = [e for e in os.scandir(folder) if e.name.lower().endswith(SUFFIXES) and not e.name.startswith(".")]
    return sorted(entry.path for entry in found if not _is_folder(entry))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def check_image(path: str) -> tuple[int, int]:
    """Height and width of an image file that begins as one and, a JPEG, ends as one."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            is_jpeg = image.format == "JPEG"
            if image.mode.startswith(("I", "F")):
                raise CorruptImageError(f"its pixels are not of 8 bits (mode {image.mode})")
        if is_jpeg:
            with open(path, "rb") as stream:
                stream.seek(0, os.SEEK_END)
                stream.seek(-min(stream.tell(), 4096), os.SEEK_CUR)
                if b"\xff\xd9" not in stream.read():
                    raise CorruptImageError("the JPEG is truncated: it has no end marker")
    except CorruptImageError:
        raise
    except Exception as error:  # PIL raises many kinds for what is not an image
        raise CorruptImageError(str(error).split("'")[0].strip() or type(error).__name__) from None
    return height, width
