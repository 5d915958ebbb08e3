"""Whatever lies in an image folder: a defined answer, the same from DALI and from torchvision."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.data.batches import Share
from harness.data.folder import index_folder
from harness.data.open import open_data
from harness.errors import HarnessError
from tests.data.test_folder import CPU, config, make_tree

GREY_LEVEL = 1 / (255 * 0.225)


def smooth(height: int, width: int) -> Image.Image:
    coarse = np.random.default_rng(height + width).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def rotated_by_exif(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer would turn it by 90 degrees; benchmarks train on pixels as stored
    smooth(40, 60).save(path, exif=exif, quality=95)


ODD: dict[str, tuple[str, Callable[[Path], None]]] = {
    "grey": ("grey.jpg", lambda p: smooth(50, 40).convert("L").save(p, quality=95)),
    "CMYK": ("cmyk.jpg", lambda p: smooth(50, 40).convert("CMYK").save(p, quality=95)),
    "rotated by EXIF": ("rotated.jpg", rotated_by_exif),
    "one pixel": ("pixel.jpg", lambda p: smooth(1, 1).save(p)),
    "one pixel wide": ("thin.jpg", lambda p: smooth(300, 1).save(p)),
    "20 megapixels": ("large.jpg", lambda p: smooth(4000, 5000).save(p)),
    "PNG in a JPEG's name": ("really.jpg", lambda p: smooth(50, 40).save(p, format="PNG")),
    "PNG with transparency": ("clear.png", lambda p: smooth(50, 40).convert("RGBA").save(p)),
    "PNG with a palette": ("palette.png", lambda p: smooth(50, 40).convert("P").save(p)),
}  # fmt: skip


def only(tmp_path: Path, name: str, write: Callable[[Path], None]) -> Path:
    """A folder whose test set is this image alone."""
    make_tree(tmp_path, n=4, classes=("cat",))
    for other in (tmp_path / "pets/val/cat").iterdir():
        other.unlink()
    write(tmp_path / "pets/val/cat" / name)
    return tmp_path


@pytest.mark.parametrize("kind", ODD)
def test_both_decoders_show_the_same(tmp_path: Path, kind: str) -> None:
    root = only(tmp_path, *ODD[kind])
    shown = []
    for loader in ("dali", "torchvision"):
        (batch,) = open_data(config(root, loader=loader), 0, Share(), CPU, 8).evaluate("test")
        shown.append(batch.images[0])
    assert shown[0].shape == shown[1].shape == (3, 24, 24)
    assert float((shown[0] - shown[1]).abs().mean()) < 2 * GREY_LEVEL


def test_an_index_of_hidden_and_other_files(tmp_path: Path) -> None:
    make_tree(tmp_path)
    cats = tmp_path / "pets/train/cat"
    (cats / "._00.jpg").write_bytes(b"what some file systems leave")
    (cats / "notes.txt").write_text("not an image")
    (cats / "thumbs.jpg").mkdir()
    (tmp_path / "pets/train/.cache").mkdir()
    index = index_folder(config(tmp_path), str(tmp_path))
    assert index.classes == ("cat", "dog")
    assert len(index.splits["train"]) + len(index.splits["validation"]) == 24


def test_links_are_followed_and_loops_are_broken_images(tmp_path: Path) -> None:
    make_tree(tmp_path)
    cats = tmp_path / "pets/train/cat"
    (cats / "linked.jpg").symlink_to("00.jpg")
    (tmp_path / "pets/train/cow").symlink_to(cats)
    index = index_folder(config(tmp_path), str(tmp_path))
    assert index.classes == ("cat", "cow", "dog")
    assert len(index.splits["train"]) + len(index.splits["validation"]) == 13 + 13 + 12
    (cats / "loop.jpg").symlink_to("loop.jpg")
    with pytest.raises(HarnessError, match=r"broken image .*cat/loop.jpg"):
        index_folder(config(tmp_path), str(tmp_path))
    assert len(index_folder(config(tmp_path, on_corrupt="skip"), str(tmp_path)).skipped) == 2


def test_more_than_8_bits_are_refused_as_the_decoders_disagree_on_them(tmp_path: Path) -> None:
    deep = Image.fromarray(np.arange(2000, dtype=np.uint16).reshape(50, 40))
    with pytest.raises(HarnessError, match=r"deep.png: its pixels are not of 8 bits \(mode I;16\)"):
        index_folder(config(only(tmp_path, "deep.png", deep.save)), str(tmp_path))


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    make_tree(tmp_path)
    (tmp_path / "pets/train/bird").mkdir()
    with pytest.raises(HarnessError, match="train: class 'bird' has no images"):
        index_folder(config(tmp_path), str(tmp_path))


@pytest.mark.parametrize("loader", ["dali", "torchvision"])
@pytest.mark.parametrize("change", ["gone", "empty"])
def test_a_file_that_changes_after_it_was_indexed(tmp_path: Path, loader: str, change: str) -> None:
    make_tree(tmp_path)
    opened = open_data(config(tmp_path, loader=loader), 0, Share(), CPU, 8)
    victim = tmp_path / "pets/val/dog/05.jpg"
    if change == "gone":
        victim.unlink()
    else:
        victim.write_bytes(b"")
    with pytest.raises(HarnessError, match=r"broken image .*val/dog/05.jpg"):
        list(opened.evaluate("test"))


def test_images_are_finite(tmp_path: Path) -> None:
    (batch,) = open_data(config(only(tmp_path, *ODD["one pixel"])), 0, Share(), CPU, 8).evaluate("test")
    assert bool(torch.isfinite(batch.images).all())


SLOW_OPEN = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static void slow(const char *path) {
    if (strstr(path, ".jpg")) { usleep(50000); write(2, "late\\n", 5); }
}
int open(const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest);
    slow(path);
    return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open"))(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest);
    slow(path);
    return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64"))(path, flags, mode);
}
FILE *fopen(const char *path, const char *mode) {
    slow(path);
    return ((FILE *(*)(const char *, const char *))dlsym(RTLD_NEXT, "fopen"))(path, mode);
}
FILE *fopen64(const char *path, const char *mode) {
    slow(path);
    return ((FILE *(*)(const char *, const char *))dlsym(RTLD_NEXT, "fopen64"))(path, mode);
}
"""
SHOWN = """
import hashlib, sys, torch
from harness.data.batches import Share
from harness.data.open import open_data
from tests.data.test_folder import config
loader = open_data(config(sys.argv[1], loader=sys.argv[2]), 0, Share(), torch.device("cpu"), 8)
held = hashlib.sha256()
for batch in [*loader.train(0), *loader.evaluate("test")]:
    held.update(batch.images.contiguous().numpy().tobytes() + batch.labels.numpy().tobytes())
print(held.hexdigest())
"""


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["dali", "torchvision"])
def test_a_slow_mount_shows_the_same(tmp_path: Path, loader: str) -> None:
    """Each opening of an image waits 50 ms, by a library that stands before the system's own."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "slow.c").write_text(SLOW_OPEN)
    library = tmp_path / "slow.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "slow.c", "-ldl"], check=True)
    root = make_tree(tmp_path)
    shown = {}
    for mount in ("fast", "slow"):
        env = {**os.environ, "LD_PRELOAD": str(library) if mount == "slow" else ""}
        words = [sys.executable, "-c", SHOWN, str(root), loader]
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=200, check=True)
        shown[mount] = done.stdout.splitlines()[-1]
        assert (done.stderr.count("late") >= 12 * 4) == (mount == "slow")
    assert shown["slow"] == shown["fast"]
