"""Image folders: what is refused, and that DALI shows what torchvision shows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.config.schema import DataConfig
from harness.data.batches import Share
from harness.data.crops import TRIES, central_window, random_window
from harness.data.folder import index_folder
from harness.data.open import open_data
from harness.errors import HarnessError

CPU = torch.device("cpu")


def make_tree(root: Path, n: int = 12, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Small smooth JPEGs of varied shapes, two classes."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in classes:
            folder = root / "pets" / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
                picture = Image.fromarray(coarse).resize((40 + 3 * i, 60 - 2 * i), Image.Resampling.BICUBIC)
                picture.save(folder / f"{i:02}.jpg", quality=95)
    return root


def config(root: Path, **options: object) -> DataConfig:
    return DataConfig(
        name="imagefolder", folder="pets", root=str(root), image_size=24, batch_size=8, flip=True,
        validation_fraction=0.25, **options,  # type: ignore[arg-type]
    )  # fmt: skip


def test_part_of_train_validates_and_val_tests(tmp_path: Path) -> None:
    index = index_folder(config(make_tree(tmp_path)), str(tmp_path))
    assert index.classes == ("cat", "dog")
    assert {split: len(files) for split, files in index.splits.items()} == {"train": 18, "validation": 6, "test": 24}
    assert {f.label for f in index.splits["validation"]} == {0, 1}


def test_a_class_of_val_that_is_not_in_train(tmp_path: Path) -> None:
    make_tree(tmp_path)
    (tmp_path / "pets/val/emu").mkdir()
    with pytest.raises(HarnessError, match="class 'emu' is not in train"):
        index_folder(config(tmp_path), str(tmp_path))


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="holds none of pets"):
        index_folder(config(tmp_path), str(tmp_path))
    (tmp_path / "pets/train").mkdir(parents=True)
    with pytest.raises(HarnessError, match="has no class folders"):
        index_folder(config(tmp_path), str(tmp_path))
    for split in ("train", "val"):
        (tmp_path / "pets" / split / "cat").mkdir(parents=True)
    with pytest.raises(HarnessError, match="holds no images"):
        index_folder(config(tmp_path), str(tmp_path))


@pytest.mark.parametrize("damage", ["truncated", "empty", "not an image"])
def test_a_broken_image_is_named_or_skipped_and_counted(tmp_path: Path, damage: str) -> None:
    victim = make_tree(tmp_path) / "pets/train/cat/03.jpg"
    content = victim.read_bytes()
    victim.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "not an image": b"hello"}[damage])
    with pytest.raises(HarnessError, match=r"broken image .*cat/03.jpg.*on_corrupt: skip leaves them out"):
        index_folder(config(tmp_path), str(tmp_path))
    index = index_folder(config(tmp_path, on_corrupt="skip"), str(tmp_path))
    assert len(index.skipped) == 1
    assert sum(len(index.splits[s]) for s in ("train", "validation")) == 23


def test_damage_inside_a_file_stops_with_its_name(tmp_path: Path) -> None:
    """The header and the end are whole, so only decoding finds it."""
    victim = make_tree(tmp_path) / "pets/val/dog/05.jpg"
    content = bytearray(victim.read_bytes())
    start = content.index(b"\xff\xda")
    del content[start : len(content) - 2]
    victim.write_bytes(content)
    for loader in ("dali", "torchvision"):
        with pytest.raises(HarnessError, match=r"broken image .*val/dog/05.jpg"):
            list(open_data(config(tmp_path, loader=loader), 0, Share(), CPU, 8).evaluate("test"))


def test_windows_obey_the_crop_law() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        height, width = rng.integers(20, 400, 2).tolist()
        top, left, h, w = random_window(height, width, rng.random((TRIES, 4)), (0.08, 1.0))
        assert 0 <= top <= height - h
        assert 0 <= left <= width - w
        assert 3 / 4 - 0.1 <= w / h <= 4 / 3 + 0.1
        assert h * w >= 0.07 * height * width or min(height, width) / max(height, width) < 0.2
    assert central_window(256, 300) == (16, 38, 224, 224)


def both(root: Path, **options: object) -> tuple[object, object]:
    return tuple(  # type: ignore[return-value]
        open_data(config(root, loader=loader, **options), 1, Share(), CPU, 8) for loader in ("dali", "torchvision")
    )


def test_dali_shows_what_torchvision_shows(tmp_path: Path) -> None:
    dali, oracle = both(make_tree(tmp_path))
    for show in (lambda loader: loader.train(2), lambda loader: loader.evaluate("test")):
        n = 0
        for found, expected in zip(show(dali), show(oracle), strict=True):
            assert torch.equal(found.labels, expected.labels)
            # normalised pixels: one grey level is .0171
            difference = (found.images - expected.images).abs() / 0.0171
            assert float(difference.mean()) < 1.5
            n += len(found.labels)
        assert n in (18, 24)


def test_dali_enters_an_epoch_anywhere(tmp_path: Path) -> None:
    dali, _ = both(make_tree(tmp_path))
    whole, rest = list(dali.train(2)), list(dali.train(2, first_batch=1))
    assert len(whole) == 3
    assert all(torch.equal(a.images, b.images) for a, b in zip(whole[1:], rest, strict=True))
    begun = dali.train(1)
    next(begun)  # left unfinished, as a run that stops in mid-epoch leaves it
    assert torch.equal(next(iter(dali.evaluate("test"))).images, next(iter(both(tmp_path)[0].evaluate("test"))).images)


def test_two_ranks_see_what_one_sees(tmp_path: Path) -> None:
    make_tree(tmp_path)
    whole = list(open_data(config(tmp_path), 1, Share(), CPU, 8).train(1))
    halves = [list(open_data(config(tmp_path), 1, Share(rank, 2), CPU, 8).train(1)) for rank in range(2)]
    for batch, first, second in zip(whole, *halves, strict=True):
        assert torch.equal(batch.images, torch.cat([first.images, second.images]))


def test_real_photographs(real_data: Path) -> None:
    """Natural images through chroma upsampling and antialiased shrinking: within a grey level or so of the oracle."""
    options = {"name": "imagefolder", "folder": "hymenoptera", "root": str(real_data), "image_size": 96}
    loaders = [
        open_data(DataConfig(**options, batch_size=16, flip=True, loader=name), 0, Share(), CPU, 20)  # type: ignore[arg-type]
        for name in ("dali", "torchvision")
    ]
    found, expected = (next(iter(loader.train(1))) for loader in loaders)
    difference = (found.images - expected.images).abs() / 0.0171
    assert float(difference.mean()) < 1.5
    assert math.isfinite(float(difference.max()))
