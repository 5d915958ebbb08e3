"""`harness sync`, `ui`: the tracking server."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import app
from harness.cli.options import Out, Tracking
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
    from harness.tune.study import load_trials, numbers_of, run_name
    from harness.tune.tuning import SUMMARY

    numbers = numbers_of(load_trials(folder, folder.name).get_trials(deepcopy=False))
    runs = [path.parent for path in sorted(folder.glob(f"runs/*/{RECORD}"))]
    mirror = BackgroundMirror(uri, "sparsity-harness", root, runs, folder.name)
    mirror.mirror.names |= {run.name: run_name(numbers, run.name) for run in runs}
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
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise HarnessError(f"port {port} cannot be had ({why}): give another --port") from None
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
