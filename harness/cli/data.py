"""`harness data`: what data sets there are; folders of images checked, and made into shards."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from harness.cli.app import app
from harness.cli.lists import show_list
from harness.cli.options import DataRoot, Json, console_for
from harness.errors import HarnessError

data = typer.Typer(invoke_without_command=True, help="List the data sets; check and prepare folders of images.")
app.add_typer(data, name="data")
Item = TypeVar("Item")

Folder = Annotated[str, typer.Argument(help="A folder of the data root with train/ and val/, or with shards.")]
ValLabels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Classes of val/ where it has no class folders: 'name class' lines, or LOC_val_solution.csv.",
    ),
]
Threads = Annotated[int, typer.Option(min=0, help="Files read at once; 0: twice the cores.")]


@data.callback()
def listing(context: typer.Context, as_json: Json = False) -> None:
    """List the data sets."""
    from harness.config import registry

    if context.invoked_subcommand is not None:
        return
    rows = []
    for name in registry.DATA:
        reader = registry.load("data set", name, registry.DATA)
        rows.append({"name": name, "description": " ".join((reader.__doc__ or "").split())})
    show_list(rows, as_json)


@data.command()
def prepare(
    folder: Folder,
    data_root: DataRoot = None,
    shards: Annotated[bool, typer.Option("--shards", help="As tar shards, the one form there is.")] = True,
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: <data root>/shards/<folder>.")] = None,
    shard_mb: Annotated[float, typer.Option(min=0.001, help="Size of a shard, in MB.")] = 256.0,
    val_labels: ValLabels = None,
    skip_corrupt: Annotated[bool, typer.Option(help="Leave broken images out; they are named.")] = False,
    threads: Threads = 0,
) -> None:
    """Make a folder of images into shards with checksums; given again, it goes on where it stopped."""
    from harness.data.folder import list_folder, read_val_labels
    from harness.data.shards import prepare as write
    from harness.data.sources import find_data

    root = _root(data_root)
    base, target = find_data(root, folder), to or Path(root) / "shards" / folder
    labels = read_val_labels(val_labels) if val_labels else None
    classes, train, val, skipped = list_folder(base, "skip" if skip_corrupt else "error", labels)
    for fault in skipped:
        print(f"left out: {fault}")
    console = console_for(as_json=False)
    splits, n = {"train": train, "val": val}, len(train) + len(val)
    for _ in _shown(write(target, classes, splits, round(shard_mb * 1e6), _threads(threads)), n, console, "images"):
        pass
    n_shards = len(list(target.glob("*.tar")))
    print(f"{n:,} images of {len(classes)} classes in {n_shards} shards: --data-root {target.parent}, folder {folder}")


@data.command()
def check(
    folder: Folder,
    data_root: DataRoot = None,
    val_labels: ValLabels = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Decode every image, count every class (of a thousand: against ILSVRC 2012); exit code 3 for faults."""
    from harness.data.check import count_faults, decode_faults, shard_faults
    from harness.data.folder import list_folder, read_val_labels
    from harness.data.shards import MANIFEST, index_shards
    from harness.data.sources import find_data

    base = find_data(_root(data_root), folder)
    if (base / MANIFEST).exists():
        faults = list(shard_faults(base))
        index = index_shards(base, 0.5, None)
        classes, test = index.classes, index.splits["test"]
        train = index.splits["train"] + index.splits["validation"]
    else:
        classes, train, test, skipped = list_folder(base, "skip", read_val_labels(val_labels) if val_labels else None)
        faults = list(skipped)
    files = train + test
    found = _shown(decode_faults(files, _threads(threads)), len(files), console_for(as_json), "images decoded")
    faults += [fault for fault in found if fault is not None]
    faults += count_faults(classes, {"train": train, "val": test})
    facts = {"folder": str(base), "classes": len(classes), "train": len(train), "val": len(test), "faults": faults}
    if as_json:
        print(json.dumps(facts, indent=1))
    else:
        for fault in faults:
            print(fault)
        state = f"{len(faults)} faults" if faults else "no faults"
        print(f"{base}: {len(train):,} training and {len(test):,} test images, {len(classes)} classes: {state}")
    if faults:
        raise typer.Exit(3)


def _root(data_root: str | None) -> str:
    root = data_root or os.environ.get("HARNESS_DATA")
    if root is None:
        raise HarnessError("which data root? give --data-root DIR or set HARNESS_DATA")
    return root


def _threads(asked: int) -> int:
    return asked or 2 * (os.cpu_count() or 1)


def _shown(items: Iterable[Item], n: int, console: object, what: str) -> Iterator[Item]:
    """The same items, with a bar and the time that is left; an item may say itself how far it is."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:  # type: ignore[arg-type]
        task = bar.add_task(what, total=n)
        for item in items:
            bar.update(task, completed=item[0]) if isinstance(item, tuple) else bar.advance(task)
            yield item
