"""`harness train` and `harness bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.app import app
from harness.cli.options import (
    Address,
    DataRoot,
    Device,
    EngineName,
    GpuShare,
    Json,
    Out,
    Seed,
    Seeds,
    Set,
    Tracking,
    Workers,
    ZeroStage,
    console_for,
    draw_curves,
    export_data_root,
    mirror_for,
    parse_seeds,
    patch_of,
)  # fmt: skip
from harness.errors import HarnessError

if TYPE_CHECKING:
    from rich.console import Console

    from harness.config import Cell


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A name of `harness recipes`, or a .yaml file.")],
    settings: Set = None,
    seed: Seed = 0,
    out: Out = None,
    data_root: DataRoot = None,
    tracking: Tracking = None,
    device: Device = None,
    workers: Workers = None,
    engine: EngineName = None,
    zero_stage: ZeroStage = None,
    profile: Annotated[bool, typer.Option("--profile", help="Time the parts of fifty steps, and trace five.")] = False,
    address: Address = "local",
    as_json: Json = False,
) -> None:
    """Train one run; the same command again continues or shows it."""
    from harness.config import cells_of, load_recipe
    from harness.config.recipes import out_root
    from harness.track.record import make_writable

    found = load_recipe(recipe)
    if found.axes:
        raise HarnessError(f"'{recipe}' is a suite of several runs: harness bench {recipe}")
    cell = cells_of(found, patch_of(settings, data_root, tracking, device, workers, engine, zero_stage), [seed])[0]
    root = make_writable(out_root(out))
    export_data_root(data_root)
    console = console_for(as_json)
    if profile and cell.config.engine.workers > 1:
        raise HarnessError("--profile looks at one process: leave out --workers")
    if cell.config.engine.workers > 1:
        results = _bench([cell], root, address, console)
    else:
        results = [_train_here(cell, root, console, profile)]
    _show([cell], results, root, console, as_json, stem=None)


def _train_here(cell: Cell, out: Path, console: Console, profile: bool = False) -> dict[str, Any]:
    """One run in this process, its record mirrored to the tracking server."""
    from harness.cli.profiles import show_profile
    from harness.track.record import read_result
    from harness.train.loop import StopRequest
    from harness.train.profile import Profile
    from harness.train.run import execute
    from harness.tune.progress import duration

    if (read_result(out / cell.run_id) or {}).get("status") == "done":
        console.print(f"run {cell.run_id} is already done")
    mirror = mirror_for(cell, out, [out / cell.run_id])
    stop = StopRequest()
    result: dict[str, Any] = {}
    parts = Profile(lambda found: show_profile(found, out / cell.run_id, console)) if profile else None
    try:
        with stop.listening():
            for event in execute(cell.config, cell.seed, out, stop, parts=parts):
                if "status" in event:
                    result = event
                    break
                n_left = (event["total_steps"] - event["step"]) * cell.config.data.batch_size
                console.print(
                    f"step {event['step']}/{event['total_steps']}  epoch {event['epoch']:g}  "
                    f"loss {event['train_loss']:.4f}  validation {100 * event['val_accuracy']:.2f} %  "
                    f"{event['n_active']:,} active weights  {event['images_per_second']:,.0f} images/s  "
                    f"ETA {duration(n_left / event['images_per_second'])}"
                )
    finally:
        if mirror is not None:
            from harness.track.record import all_results

            mirror.close(all_results(out))
    return result


@app.command()
def bench(
    suite: Annotated[str, typer.Argument(help="A suite of `harness recipes`, or a .yaml file.")],
    settings: Set = None,
    seeds: Seeds = None,
    methods: Annotated[str | None, typer.Option(help="Only these methods of the suite, comma-separated.")] = None,
    out: Out = None,
    data_root: DataRoot = None,
    tracking: Tracking = None,
    device: Device = None,
    workers: Workers = None,
    engine: EngineName = None,
    zero_stage: ZeroStage = None,
    gpu_share: GpuShare = 1.0,
    address: Address = "local",
    as_json: Json = False,
) -> None:
    """Run a suite as Ray Tune trials; end with the leaderboard and the curve."""
    from harness.config import cells_of, load_recipe
    from harness.config.recipes import out_root
    from harness.track.record import make_writable

    found = load_recipe(suite)
    patch = patch_of(settings, data_root, tracking, device, workers, engine, zero_stage)
    only = methods.split(",") if methods else None
    cells = cells_of(found, patch, parse_seeds(seeds) if seeds else None, only)
    root = make_writable(out_root(out))
    export_data_root(data_root)
    console = console_for(as_json)
    console.print(f"{found.name}: {len(cells)} runs into {root}")
    results = _bench(cells, root, address, console, gpu_share)
    _show(cells, results, root, console, as_json, stem=root / "board" / found.name)


def _bench(
    cells: list[Cell], out: Path, address: str, console: Console, gpu_share: float = 1.0
) -> list[dict[str, Any]]:
    from harness.track.record import all_results
    from harness.tune.bench import run_cells

    mirror = mirror_for(cells[0], out, [out / cell.run_id for cell in cells])
    try:
        return run_cells(cells, out, address, console, gpu_share)
    finally:
        if mirror is not None:
            mirror.close(all_results(out))


def _show(
    cells: list[Cell], results: list[dict[str, Any]], out: Path, console: Console, as_json: bool, stem: Path | None
) -> None:
    """The table of these cells, the curve where a suite asks for one, and the exit code."""
    from harness.board.ranking import judged
    from harness.board.rows import as_plain, rows_from_results
    from harness.board.table import show_table

    rows = rows_from_results(results)
    paths = draw_curves(rows, stem) if stem is not None else []
    if as_json:
        print(json.dumps({"results": results, "rows": [as_plain(r) for r in rows], "curves": [str(p) for p in paths]}))
    else:
        show_table(judged(rows), console)
        for path in paths:
            console.print(f"curve: {path}", soft_wrap=True)
        if stem is None and results[0]["status"] == "done":
            console.print(f"run: {out / cells[0].run_id}", soft_wrap=True)
    failed = [r for r in results if r["status"] != "done"]
    if failed:
        raise typer.Exit(3)


@app.command()
def match(
    recipe: Annotated[str, typer.Argument(help="A recipe whose density comes out, e.g. mnist_lenet300_dst.")],
    density: Annotated[float, typer.Option(help="The density that should come out, e.g. 0.02.")],
    low: Annotated[float, typer.Option(help="Smallest value to try.")],
    high: Annotated[float, typer.Option(help="Largest value to try.")],
    key: Annotated[str, typer.Option(help="The option to move, a positive number.")] = "method.alpha",
    runs: Annotated[int, typer.Option(help="Full runs at most.", min=2)] = 10,
    tolerance: Annotated[float, typer.Option(help="Relative distance from the density that will do.")] = 0.05,
    settings: Set = None,
    seed: Seed = 0,
    out: Out = None,
    data_root: DataRoot = None,
    tracking: Tracking = None,
    device: Device = None,
) -> None:
    """Search for the option that makes a density come out. Every try is a full run, as short ones mislead."""
    from harness.config import cells_of, load_recipe
    from harness.config.recipes import out_root
    from harness.track.record import make_writable
    from harness.tune.match import Tried, match_density

    if not 0 < low < high:
        raise HarnessError(f"the search is between two positive values, got --low {low:g} and --high {high:g}")
    found, root, console = load_recipe(recipe), make_writable(out_root(out)), console_for(False)
    export_data_root(data_root)

    def measure(value: float) -> float:
        patch = patch_of([*(settings or []), f"{key}={value!r}"], data_root, tracking, device, None, None, None)
        (cell,) = cells_of(found, patch, [seed])
        console.print(f"[bold]{key} = {value:.4g}")
        return float(_train_here(cell, root, console)["density"])

    console.print(f"a search: up to {runs} full runs of {recipe}, seed {seed}, for density {density:g}")
    tried: list[Tried] = []
    for attempt in match_density(measure, density, low, high, runs, tolerance):
        tried.append(attempt)
        console.print(f"{key} = {attempt.value:.4g} left density {attempt.density:.4g}")
    best = min(tried, key=lambda t: abs(t.density / density - 1))
    near = "within" if abs(best.density / density - 1) <= tolerance else "not within"
    console.print(
        f"after {len(tried)} full runs: {key}={best.value:.6g} leaves {best.density:.4g}, {near} "
        f"{100 * tolerance:g} % of {density:g}; found on seed {seed}, so judge it on others",
        soft_wrap=True,
    )
    if near == "not within":
        raise typer.Exit(3)


@app.command()
def schedule(
    recipe: Annotated[str, typer.Argument(help="A name of `harness recipes`, or a .yaml file.")],
    settings: Set = None,
    data_root: DataRoot = None,
    picture: Annotated[Path, typer.Option("--picture", help="Where to draw it (.png or .svg).")] = Path("schedule.png"),
) -> None:
    """Draw density, DyReLU's beta and the learning rate of a run over time, without training."""
    from harness.config import cells_of, load_recipe
    from harness.config.schema import label_of
    from harness.train.preview import draw_preview, preview

    export_data_root(data_root)
    cell = cells_of(load_recipe(recipe), patch_of(settings, data_root, None, None, None, None, None))[0]
    method = cell.config.method
    draw_preview(preview(cell.config), f"{recipe}: {label_of(method)}", picture)
    print(picture)
