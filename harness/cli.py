"""The command line. Heavy modules are imported inside the commands that need them, so that help is instant."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.errors import HarnessError, Interrupted

if TYPE_CHECKING:
    from rich.console import Console

    from harness.board.rows import Row
    from harness.config import Cell

app = typer.Typer(
    help="Which sparse-training method is best at a given sparsity? Train, compare, and see.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

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
Address = Annotated[str, typer.Option(help="Ray: local, auto, or an address.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def main() -> None:
    """Run a command; an error the user can act on is one message and its exit code."""
    try:
        app()
    except HarnessError as error:
        print(f"harness: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


# --- lists -----------------------------------------------------------------------------------------


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the shipped recipes and suites."""
    from harness.config.recipes import load_recipe, shipped_recipes

    found = [load_recipe(name) for name in shipped_recipes()]
    rows = [{"name": r.name, "kind": "suite" if r.axes else "recipe", "description": r.description} for r in found]
    _list(rows, as_json)


@app.command()
def methods(as_json: Json = False) -> None:
    """List the methods, their family and source."""
    from harness.config import registry

    rows = []
    for name in registry.METHODS:
        method = registry.load("method", name, registry.METHODS)
        options = {k: f.default for k, f in method.Options.model_fields.items() if k not in ("name", "density")}
        plain = {k: v.model_dump() if hasattr(v, "model_dump") else v for k, v in options.items()}
        row: dict[str, Any] = {"name": name, "family": method.family, "source": method.source}
        row["options"] = plain if as_json else ", ".join(plain)
        rows.append(row)
    _list(rows, as_json)


@app.command()
def models(as_json: Json = False) -> None:
    """List the models."""
    from harness.config import registry

    _list([{"name": name, "where": path} for name, path in registry.MODELS.items()], as_json)


@app.command()
def data(as_json: Json = False) -> None:
    """List the data sets."""
    from harness.config import registry

    rows = []
    for name in registry.DATA:
        reader = registry.load("data set", name, registry.DATA)
        rows.append({"name": name, "description": " ".join((reader.__doc__ or "").split())})
    _list(rows, as_json)


def _list(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)


# --- runs ------------------------------------------------------------------------------------------


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
    address: Address = "local",
    as_json: Json = False,
) -> None:
    """Train one run; the same command again continues or shows it."""
    from harness.config import cells_of, load_recipe
    from harness.config.recipes import out_root

    found = load_recipe(recipe)
    if found.axes is not None:
        raise HarnessError(f"'{recipe}' is a suite of several runs: harness bench {recipe}")
    cell = cells_of(found, _patch(settings, data_root, tracking, device, workers, engine, zero_stage), [seed])[0]
    root = _writable(out_root(out))
    _export_data_root(data_root)
    console = _console(as_json)
    if cell.config.engine.workers > 1:
        results = _bench([cell], root, address, console)
    else:
        results = [_train_here(cell, root, console)]
    _show([cell], results, root, console, as_json, stem=None)


def _train_here(cell: Cell, out: Path, console: Console) -> dict[str, Any]:
    """One run in this process, its record mirrored to the tracking server."""
    from harness.track.record import read_result
    from harness.train.loop import StopRequest
    from harness.train.run import execute
    from harness.tune.progress import duration

    if (read_result(out / cell.run_id) or {}).get("status") == "done":
        console.print(f"run {cell.run_id} is already done")
    mirror = _mirror(cell, out, [out / cell.run_id])
    stop = StopRequest()
    stop.listen()
    result: dict[str, Any] = {}
    try:
        for event in execute(cell.config, cell.seed, out, stop):
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
    address: Address = "local",
    as_json: Json = False,
) -> None:
    """Run a suite as Ray Tune trials; end with the leaderboard and the curve."""
    from harness.config import cells_of, load_recipe
    from harness.config.recipes import out_root

    found = load_recipe(suite)
    patch = _patch(settings, data_root, tracking, device, workers, engine, zero_stage)
    only = methods.split(",") if methods else None
    cells = cells_of(found, patch, parse_seeds(seeds) if seeds else None, only)
    root = _writable(out_root(out))
    _export_data_root(data_root)
    console = _console(as_json)
    console.print(f"{found.name}: {len(cells)} runs into {root}")
    results = _bench(cells, root, address, console)
    _show(cells, results, root, console, as_json, stem=root / "board" / found.name)


def _bench(cells: list[Cell], out: Path, address: str, console: Console) -> list[dict[str, Any]]:
    import signal

    from harness.track.record import all_results
    from harness.tune.bench import run_cells

    def leave(number: int, frame: object) -> None:
        raise Interrupted("stopped: the same command continues the runs that are not done")

    signal.signal(signal.SIGTERM, leave)
    mirror = _mirror(cells[0], out, [out / cell.run_id for cell in cells])
    try:
        return run_cells(cells, out, address, console)
    except KeyboardInterrupt:
        raise Interrupted("stopped: the same command continues the runs that are not done") from None
    finally:
        if mirror is not None:
            mirror.close(all_results(out))


def _show(
    cells: list[Cell], results: list[dict[str, Any]], out: Path, console: Console, as_json: bool, stem: Path | None
) -> None:
    """The table of these cells, the curve where a suite asks for one, and the exit code."""
    from harness.board.rows import as_plain, rows_from_results
    from harness.board.table import show_table

    rows = rows_from_results(results)
    paths = _draw(rows, stem) if stem is not None else []
    if as_json:
        print(json.dumps({"results": results, "rows": [as_plain(r) for r in rows], "curves": [str(p) for p in paths]}))
    else:
        show_table(rows, console)
        for path in paths:
            console.print(f"curve: {path}", soft_wrap=True)
        if stem is None and results[0]["status"] == "done":
            console.print(f"run: {out / cells[0].run_id}", soft_wrap=True)
    failed = [r for r in results if r["status"] != "done"]
    if failed:
        raise typer.Exit(3)


def _draw(rows: list[Row], stem: Path) -> list[Path]:
    """One picture per data set and model."""
    from harness.board.curve import draw_curve

    kinds = sorted({(r.data, r.model) for r in rows if r.mean is not None})
    paths = []
    for data_name, model in kinds:
        of = [r for r in rows if (r.data, r.model) == (data_name, model)]
        name = stem.name if len(kinds) == 1 else f"{stem.name}-{data_name}-{model}".replace(":", "-")
        paths += draw_curve(of, stem.with_name(name))
    return paths


# --- what has been run -----------------------------------------------------------------------------


@app.command()
def board(out: Out = None, tracking: Tracking = None, as_json: Json = False) -> None:
    """Show the leaderboard: from the records in --out, or, with --tracking, from a tracking server alone."""
    from harness.board.rows import as_plain, rows_from_results
    from harness.board.table import show_table
    from harness.config.recipes import out_root
    from harness.track.record import all_results

    root = out_root(out)
    if tracking:
        from harness.track.query import results_from_tracking

        results = results_from_tracking(tracking)
    else:
        results = all_results(root)
    if not results:
        raise HarnessError(f"no results in {tracking or root}: run `harness bench demo` first, or give --out DIR")
    rows = rows_from_results(results)
    if as_json:
        print(json.dumps([as_plain(r) for r in rows], indent=1))
        return
    console = _console(False)
    show_table(rows, console)
    for path in _draw(rows, root / "board" / "all"):
        console.print(f"curve: {path}", soft_wrap=True)


@app.command()
def sync(out: Out = None, tracking: Tracking = None) -> None:
    """Send every record in --out to the tracking server; what is there already is left alone."""
    from harness.config.recipes import out_root
    from harness.track.mirror import BackgroundMirror, default_uri
    from harness.track.record import RECORD, all_results

    root = out_root(out)
    run_dirs = [path.parent for path in sorted(root.glob(f"*/{RECORD}"))]
    uri = tracking or default_uri(root)
    mirror = BackgroundMirror(uri, "sparsity-harness", root, run_dirs)
    if not mirror.close(all_results(root)):
        raise HarnessError(f"{uri} did not take everything: {mirror.failure}")
    print(f"{len(run_dirs)} runs are in {uri}")


@app.command()
def ui(
    out: Out = None, tracking: Tracking = None, port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000
) -> None:
    """Open the MLflow UI on the runs, on this machine only."""
    from harness.config.recipes import out_root
    from harness.track.mirror import Mirror, curve_view, default_uri

    root = out_root(out)
    if tracking is None and not (root / "mlflow.db").exists():
        raise HarnessError(f"no tracking data in {root}: run `harness bench demo` first, or give --tracking URI")
    uri = tracking or default_uri(root)
    mirror = Mirror(uri, "sparsity-harness", root)
    mirror.connect()
    server = f"http://127.0.0.1:{port}"
    print(f"MLflow UI on {server} (Ctrl-C ends it)\ncurves: {server}{curve_view(mirror.experiment_id)}", flush=True)
    words = ["-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [sys.executable, *words])


@app.command()
def doctor(out: Out = None, data_root: DataRoot = None, tracking: Tracking = None, as_json: Json = False) -> None:
    """Check this machine: packages, GPUs, data, disk, tracking; what is missing and what to do."""
    from harness.config.recipes import out_root
    from harness.doctor import examine

    findings = examine(out_root(out), data_root or os.environ.get("HARNESS_DATA"), tracking)
    if as_json:
        print(json.dumps([vars(f) for f in findings], indent=1))
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, header_style="bold")
        for column in ("", "what", "found", "what to do"):
            table.add_column(column)
        colours = {"ok": "green", "warning": "yellow", "missing": "red"}
        for f in findings:
            table.add_row(f"[{colours[f.state]}]{f.state}[/]", f.what, f.found, f.advice)
        Console().print(table)
    if any(f.state == "missing" for f in findings):
        raise typer.Exit(3)


# --- shared by the commands ------------------------------------------------------------------------


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


def _patch(
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


def _export_data_root(data_root: str | None) -> None:
    """A data root given by the environment reaches worker processes as it reached this one."""
    if data_root:
        os.environ["HARNESS_DATA"] = str(Path(data_root).absolute())


def _writable(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise HarnessError(f"cannot write to {out}: {error.strerror}; give another --out DIR") from None
    return out


def _console(as_json: bool) -> Console:
    from rich.console import Console

    return Console(stderr=as_json, width=None if sys.stdout.isatty() else 110)


def _mirror(cell: Cell, out: Path, run_dirs: list[Path]) -> Any:
    from harness.track.mirror import BackgroundMirror, default_uri

    tracking = cell.config.tracking
    if tracking.uri == "none":
        return None
    return BackgroundMirror(tracking.uri or default_uri(out), tracking.experiment, out, run_dirs)


if __name__ == "__main__":
    main()
