"""The options that commands share, and what becomes of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.errors import HarnessError

if TYPE_CHECKING:
    from rich.console import Console

    from harness.board.claims import Claim
    from harness.board.rows import Row
    from harness.config import Cell

Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. method.density=0.002; repeatable.")]  # fmt: skip  # noqa: E501
Seed = Annotated[int, typer.Option(help="Seed of the run.")]
Seeds = Annotated[str | None, typer.Option(help="Seeds instead of the suite's: 0-2, or 0,3,7.")]
Out = Annotated[str | None, typer.Option(help="Folder for runs (default runs/, or $HARNESS_OUT).")]
DataRoot = Annotated[str | None, typer.Option(help="Folder that holds the data sets (or $HARNESS_DATA).")]
Tracking = Annotated[str | None, typer.Option(help="MLflow tracking URI, or 'none' (default: SQLite in --out).")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or auto.")]
Workers = Annotated[int | None, typer.Option(help="Ranks per run; more than one trains under Ray Train.")]
EngineName = Annotated[str | None, typer.Option("--engine", help="torch or deepspeed.")]
ZeroStage = Annotated[int | None, typer.Option(help="0, 1 or 2, with --engine deepspeed.")]
GpuShare = Annotated[float, typer.Option("--gpu-share", help="Part of a GPU per run of one worker: 0.25 runs four on each.", min=0.01, max=1.0)]  # fmt: skip  # noqa: E501
Address = Annotated[str, typer.Option(help="Ray: local, auto, or an address.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def parse_seeds(text: str) -> list[int]:
    """'0-2' is 0, 1, 2; '0,3,7' is itself."""
    try:
        seeds = []
        for part in text.split(","):
            low, dash, high = part.partition("-")
            seeds += list(range(int(low), int(high) + 1)) if dash else [int(low)]
    except ValueError:
        raise HarnessError(f"--seeds needs numbers as in 0-2 or 0,3,7; got '{text}'") from None
    if not seeds:
        raise HarnessError(f"--seeds {text} is an empty range")
    return seeds


def patch_of(
    settings: list[str] | None,
    data_root: str | None,
    tracking: str | None,
    device: str | None,
    workers: int | None,
    engine: str | None,
    zero_stage: int | None,
) -> dict[str, Any]:
    """The options of the command line as a patch over a recipe; an option beats --set."""
    from harness.config import parse_settings
    from harness.config.recipes import merge

    named: dict[str, dict[str, Any]] = {
        "engine": {"device": device, "workers": workers, "name": engine, "zero_stage": zero_stage},
        "data": {"root": str(Path(data_root).absolute()) if data_root else None},
        "tracking": {"uri": tracking},
    }
    given = {s: {k: v for k, v in keys.items() if v is not None} for s, keys in named.items()}
    return merge(parse_settings(settings or []), {s: keys for s, keys in given.items() if keys})


def export_data_root(data_root: str | None) -> None:
    """A data root given by the environment reaches worker processes as it reached this one."""
    if data_root:
        os.environ["HARNESS_DATA"] = str(Path(data_root).absolute())


def console_for(as_json: bool, width: int | None = None) -> Console:
    """width: asked for; by default the terminal's, and 110 where there is none."""
    from rich.console import Console

    return Console(stderr=as_json, width=width or (None if sys.stdout.isatty() else 110))


def mirror_for(cell: Cell, out: Path, run_dirs: list[Path]) -> Any:
    from harness.track.mirror import BackgroundMirror, default_uri

    tracking = cell.config.tracking
    if tracking.uri == "none":
        return None
    return BackgroundMirror(tracking.uri or default_uri(out), tracking.experiment, out, run_dirs)


def draw_curves(rows: list[Row], stem: Path, claims: list[Claim] | None = None) -> list[Path]:
    """One picture per table."""
    from harness.board.curve import draw_curve
    from harness.board.rows import tables_of

    tables = [of for of in tables_of(rows) if any(r.accuracies for r in of)]
    paths = []
    for of in tables:
        home = of[0].convention
        name = "-".join((stem.name, home.data, home.model, home.id)).replace(":", "-")
        paths += draw_curve(of, stem.with_name(stem.name if len(tables) == 1 else name), claims or [])
    return paths
