"""Shards are the folder in another form: the same batches to the bit, and readable by DALI's own reader."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.config.schema import DataConfig
from harness.data.batches import Share
from harness.data.check import count_faults, decode_faults, shard_faults
from harness.data.folder import ImageFile, index_folder, list_folder, read_val_labels
from harness.data.open import open_data
from harness.data.shards import prepare
from harness.data.sizes import sizes_of
from harness.errors import HarnessError
from tests.data.test_folder import CPU, config, make_tree

SHARD = 12_000  # bytes: several shards of some images


def make_shards(root: Path, target: Path, shard_bytes: int = SHARD) -> Path:
    classes, train, val, _ = list_folder(root / "pets", "error")
    assert list(prepare(target, classes, {"train": train, "val": val}, shard_bytes, threads=2))[-1] == (48, 48)
    return target


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    make_shards(make_tree(tmp_path), tmp_path / "shards" / "pets")
    return tmp_path


def batches(root: Path, loader: str, first: int = 0, **more: object) -> list[torch.Tensor]:
    opened = open_data(config(root, loader=loader, **more), 3, Share(), CPU, 8)
    fed = [*opened.train(2, first), *opened.evaluate("validation"), *opened.evaluate("test")]
    return [tensor for batch in fed for tensor in (batch.images, batch.labels)]


@pytest.mark.parametrize("loader", ["dali", "torchvision"])
def test_they_feed_what_the_folder_feeds(pets: Path, loader: str) -> None:
    assert len(list((pets / "shards/pets").glob("*.tar"))) > 4
    whole = batches(pets, loader)
    for found, expected in zip(batches(pets / "shards", loader), whole, strict=True):
        assert torch.equal(found, expected)
    in_the_middle = batches(pets / "shards", loader, first=1)
    assert all(torch.equal(a, b) for a, b in zip(in_the_middle, whole[2:], strict=True))


def test_sizes_are_known_without_reading_them(pets: Path) -> None:
    assert sizes_of(config(pets / "shards")).n == sizes_of(config(pets)).n == {"train": 18, "validation": 6, "test": 24}


def test_dali_reads_them_front_to_end(pets: Path) -> None:
    from nvidia.dali import fn, pipeline_def

    folder = pets / "shards/pets"
    tars = sorted(folder.glob("train-*.tar"))
    for tar in tars:  # the index that DALI's own tool would make
        made = folder / "own.idx"
        subprocess.run([Path(sys.executable).parent / "wds2idx", tar, made], check=True, capture_output=True)
        assert made.read_text() == tar.with_suffix(".idx").read_text()

    @pipeline_def(batch_size=24, num_threads=1, device_id=None)
    def pipeline():  # type: ignore[no-untyped-def]
        return tuple(
            fn.readers.webdataset(
                paths=list(map(str, tars)), index_paths=[str(t.with_suffix(".idx")) for t in tars], ext=["jpg", "cls"]
            )
        )

    reader = pipeline()
    reader.build()
    images, labels = reader.run()
    read = {(bytes(images.at(i)), int(bytes(labels.at(i)))) for i in range(24)}
    expected = {
        (path.read_bytes(), label)
        for label, name in enumerate(("cat", "dog"))
        for path in (pets / "pets/train" / name).iterdir()
    }
    assert read == expected


def test_it_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    make_tree(tmp_path)
    classes, train, val, _ = list_folder(tmp_path / "pets", "error")
    splits, target = {"train": train, "val": val}, tmp_path / "shards"
    begun = prepare(target, classes, splits, SHARD, threads=1)
    next(begun)
    next(begun)
    begun.close()
    written = {path: path.stat().st_mtime_ns for path in target.glob("*.tar")}
    (target / "train-00009.tar.part").write_bytes(b"of a process that was killed")
    next(iter(written)).write_bytes(b"short")  # and a shard that lost its end
    assert not (target / "shards.json").exists()
    assert list(prepare(target, classes, splits, SHARD, threads=2))[-1] == (48, 48)
    kept = [path for path, at in written.items() if path.stat().st_mtime_ns == at]
    assert len(kept) == len(written) - 1
    assert (target / "shards.json").read_text() == (make_shards(tmp_path, tmp_path / "new") / "shards.json").read_text()
    assert not list(shard_faults(target))
    with pytest.raises(HarnessError, match="holds shards of other images or of another size: choose another folder"):
        list(prepare(target, classes, splits, 2 * SHARD, threads=1))
    with pytest.raises(HarnessError, match="holds shards of other images"):
        list(prepare(target, classes, {"train": train[1:], "val": val}, SHARD, threads=1))


def test_damage_is_named(pets: Path) -> None:
    folder = pets / "shards/pets"
    classes, train, val, _ = list_folder(pets / "pets", "error")
    assert list(decode_faults(train, 2)) == [None] * 24
    victim = folder / "train-00001.tar"
    content = bytearray(victim.read_bytes())
    row = json.loads(victim.with_suffix(".json").read_text())["rows"][0]
    content[row[1] : row[1] + 200] = bytes(200)
    victim.write_bytes(content)
    (fault,) = shard_faults(folder)
    assert fault.startswith(f"{victim}: its SHA-256 is ")
    index = index_folder(config(pets / "shards"), str(pets / "shards"))
    faults = [f for files in index.splits.values() for f in decode_faults(files, 2) if f]
    assert len(faults) == 1
    assert faults[0].startswith(f"{victim} (at byte {row[1]}): ")
    for loader in ("dali", "torchvision"):
        with pytest.raises(HarnessError, match=r"broken image .*train-00001.tar \(at byte"):
            batches(pets / "shards", loader)
    victim.write_bytes(content[:-1024])
    with pytest.raises(
        HarnessError, match=r"train-00001.tar has [\d,]+ bytes, expected [\d,]+: copy or prepare it again"
    ):
        index_folder(config(pets / "shards"), str(pets / "shards"))
    assert not list(count_faults(classes, {"train": train, "val": val}))


def test_classes_are_counted_against_the_official_numbers() -> None:
    classes = tuple(f"n{i:08d}" for i in range(1000))
    train = [ImageFile("-", label, 8, 8) for label in range(1000) for _ in range(1281 + (label < 167))]
    val = [ImageFile("-", label, 8, 8) for label in range(1000) for _ in range(50)]
    assert not list(count_faults(classes, {"train": train, "val": val}))
    assert list(count_faults(classes, {"train": train[1:], "val": [*val[1:], val[-1]]})) == [
        "train: 1,281,166 images, ILSVRC 2012 has 1,281,167",
        "val: 49 images of n00000000, expected 50", "val: 51 images of n00000999, expected 50",
    ]  # fmt: skip
    assert next(count_faults(classes, {"train": train[1282:]})) == "train: no images of n00000000"


@pytest.mark.parametrize("form", ["lines", "kaggle"])
def test_validation_images_in_one_folder_have_their_labels_in_a_file(tmp_path: Path, form: str) -> None:
    make_tree(tmp_path)
    flat, lines = tmp_path / "flat" / "pets", []
    shutil.copytree(tmp_path / "pets/train", flat / "train")
    (flat / "val").mkdir()
    for i, path in enumerate(sorted((tmp_path / "pets/val").glob("*/*.jpg"), reverse=True)):
        name = f"ILSVRC2012_val_{i:08d}"
        shutil.copy(path, flat / "val" / f"{name}.JPEG")
        label = path.parent.name
        lines.append(f"{name}.JPEG {label}" if form == "lines" else f"{name},{label} 1 2 30 40 {label} 5 6 7 8")
    table = tmp_path / "labels"
    table.write_text("\n".join(["ImageId,PredictionString", *lines] if form == "kaggle" else lines) + "\n")
    _, _, val, _ = list_folder(flat, "error", read_val_labels(table))
    assert [file.label for file in val] == [0] * 12 + [1] * 12
    table.write_text("\n".join(lines[1:]) + "\n")
    with pytest.raises(HarnessError, match=r"ILSVRC2012_val_00000000.JPEG has no label \(1 such images\)"):
        list_folder(flat, "error", read_val_labels(table))


STAGE = """
import sys, torch
from harness.config.schema import DataConfig
from harness.data.folder import index_folder
root, stage = sys.argv[1:]
index = index_folder(DataConfig(name="imagefolder", folder="pets", stage=stage), root)
print(index.splits["train"][0].path)
"""


def test_a_node_copies_them_once_for_all_its_processes(pets: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", STAGE, str(pets / "shards"), str(tmp_path / "local")]
    started = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate()[0] for process in started}
    assert len(said) == 1
    (place,) = (tmp_path / "local").iterdir()
    assert said.pop().startswith(str(place))
    copied = {path: path.stat().st_mtime_ns for path in place.glob("*.tar")}
    assert {path.name for path in copied} == {path.name for path in (pets / "shards/pets").glob("*.tar")}
    whole, staged = batches(pets, "torchvision"), batches(pets / "shards", "torchvision", stage=str(tmp_path / "local"))
    assert all(torch.equal(a, b) for a, b in zip(whole, staged, strict=True))
    assert {path: path.stat().st_mtime_ns for path in copied} == copied, "nothing was copied again"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounts a small disk, as root")
def test_a_disk_that_is_too_small_is_said_before_copying(pets: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(small)], check=True)
    try:
        with pytest.raises(
            HarnessError, match=r"0.0 GB free, 0.0 GB of .* are still to be copied: name another folder"
        ):
            index_folder(config(pets / "shards", stage=str(small)), str(pets / "shards"))
        assert not list(small.glob("*/*.tar"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_as_commands(tmp_path: Path) -> None:
    make_tree(tmp_path)

    def harness(*words: str, code: int = 0) -> str:
        env = {**os.environ, "HARNESS_DATA": str(tmp_path)}
        done = subprocess.run([sys.executable, "-m", "harness", *words], env=env, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout

    assert "48 images of 2 classes in " in harness("data", "prepare", "pets", "--shards", "--shard-mb", "0.012")
    said = harness("data", "check", "pets", "--data-root", str(tmp_path / "shards"))
    assert said.endswith("shards/pets: 24 training and 24 test images, 2 classes: no faults\n")
    victim = tmp_path / "pets/train/dog/04.jpg"
    victim.write_bytes(victim.read_bytes()[:200])
    assert str(victim) in harness("data", "check", "pets", code=3)
    assert "imagefolder" in harness("data")


def test_the_tar_is_one_that_others_read(pets: Path) -> None:
    with tarfile.open(next((pets / "shards/pets").glob("val-*.tar"))) as tar:
        names = tar.getnames()
        image = tar.extractfile(names[0])
        assert image is not None
        assert np.asarray(Image.open(image)).shape[2] == 3
    assert [name.split(".")[1] for name in names[:2]] == ["jpg", "cls"]
    assert isinstance(config(pets), DataConfig)
