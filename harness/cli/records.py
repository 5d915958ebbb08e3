"""`harness sync`, `ui`, `doctor`: the tracking server, and the machine."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import app
from harness.cli.options import DataRoot, Json, Out, Tracking
from harness.errors import HarnessError


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
    if not mirror.close(all_results(root), complete=True):
        raise HarnessError(f"{uri} did not take everything: {mirror.failure}")
    n_trials = sum(_sync_study(folder.parent, root, uri) for folder in sorted(root.glob("studies/*/journal.log")))
    print(f"{len(run_dirs)} runs are in {uri}" + (f", and {n_trials} of searches" if n_trials else ""))


def _sync_study(folder: Path, root: Path, uri: str) -> int:
    """The runs of a search as children of its own run; returns how many."""
    from harness.track.mirror import BackgroundMirror
    from harness.track.record import RECORD
    from harness.tune.study import load_trials, run_name
    from harness.tune.tuning import SUMMARY

    trials = load_trials(folder, folder.name).get_trials(deepcopy=False)
    runs = [path.parent for path in sorted(folder.glob(f"runs/*/{RECORD}"))]
    mirror = BackgroundMirror(uri, "sparsity-harness", root, runs, folder.name)
    mirror.mirror.names |= {run.name: run_name(trials, run.name) for run in runs}
    whole, summary = mirror.close(), folder / SUMMARY
    if whole and summary.exists():
        whole = mirror.close_study(json.loads(summary.read_text()), [summary])
    if not whole:
        raise HarnessError(f"{uri} did not take everything of the search {folder.name}: {mirror.failure}")
    return len(runs)


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
    words = [
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    os.execv(sys.executable, [sys.executable, *words])


@app.command()
def doctor(
    out: Out = None,
    data_root: DataRoot = None,
    tracking: Tracking = None,
    tune_loader: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Measure this image folder of the data root at several settings."),
    ] = None,
    image_size: Annotated[int, typer.Option(help="With --tune-loader: side of the images.", min=8)] = 224,
    seconds: Annotated[float, typer.Option(help="With --tune-loader: for each setting.", min=0.1)] = 4.0,
    as_json: Json = False,
) -> None:
    """Check this machine: packages, GPUs, data, disk, tracking; what is missing and what to do."""
    if tune_loader is not None:
        _tune_loader(tune_loader, data_root, image_size, seconds, as_json)
        return
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


def _tune_loader(folder: str, data_root: str | None, image_size: int, seconds: float, as_json: bool) -> None:
    """Images per second from this folder by decoding threads and batches ahead, and the setting to train with."""
    import torch

    from harness.config.schema import DataConfig
    from harness.data.rates import Rate, tune_loader

    root = data_root or os.environ.get("HARNESS_DATA")
    config = DataConfig(name="imagefolder", root=root, folder=folder, image_size=image_size, flip=True, batch_size=128)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rates: list[Rate] = []
    for rate in tune_loader(config, device, seconds):
        rates.append(rate)
        if not as_json:
            print(f"{rate.threads} threads, {rate.prefetch} batches ahead: {rate.images_per_second:,.0f} images/s")
    fastest = max(rate.images_per_second for rate in rates)
    # threads cost the processes beside this one: the fewest that come within 3 % of the fastest
    best = next(rate for rate in rates if rate.images_per_second >= 0.97 * fastest)
    setting = f"--set data.threads={best.threads} --set data.prefetch={best.prefetch}"
    if as_json:
        print(json.dumps({"device": str(device), "rates": [asdict(r) for r in rates], "best": asdict(best)}, indent=1))
    else:
        print(f"{setting}: {best.images_per_second:,.0f} images/s to the {device.type} from {folder}, one process")
