"""`harness board`, `sync`, `ui`, `doctor`: what has been run, and on what."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import app
from harness.cli.options import DataRoot, Json, Out, Tracking, console_for, draw_curves
from harness.errors import HarnessError


@app.command()
def board(
    out: Out = None,
    tracking: Tracking = None,
    as_json: Json = False,
    save: Annotated[Path | None, typer.Option(help="Write rows, versions and commits to this JSON file.")] = None,
    made_by: Annotated[str | None, typer.Option(help="The command that made them, for --save.")] = None,
    verified_only: Annotated[
        bool, typer.Option("--verified-only", help="Only runs that `harness verify --run` verified.")
    ] = False,
    against: Annotated[str | None, typer.Option(help="Also show differences by seed to this method.")] = None,
) -> None:
    """Show the leaderboard: from the records in --out, or, with --tracking, from a tracking server alone."""
    from harness.board.differences import differences
    from harness.board.rows import as_plain, as_report, rows_from_results
    from harness.board.table import show_differences, show_table
    from harness.config.recipes import out_root
    from harness.track.record import all_results, is_verified, read_events, write_whole

    root = out_root(out)
    if tracking:
        from harness.track.query import results_from_tracking

        results = results_from_tracking(tracking)
    else:
        results = all_results(root)
    if verified_only:
        if tracking:
            raise HarnessError("--verified-only reads what `harness verify --run` left in --out: leave out --tracking")
        results = [r for r in results if is_verified(root / r["run_id"])]
        if not results:
            raise HarnessError(f"no verified run in {root}: `harness verify --run RUN_ID --out {root}` first")
    if not results:
        raise HarnessError(f"no results in {tracking or root}: run `harness bench demo` first, or give --out DIR")
    rows = rows_from_results(results)
    found = differences(rows, against) if against else []
    if against and not found:
        raise HarnessError(f"nothing to compare with '{against}'; found: {', '.join(sorted({r.method for r in rows}))}")
    if save is not None:
        report = as_report(results, made_by, lambda run_id: read_events(root / run_id))
        report |= {"differences": [asdict(d) for d in found]} if found else {}
        write_whole(save, json.dumps(report, indent=1) + "\n")
    if as_json:
        print(json.dumps([as_plain(r) for r in rows], indent=1))
        return
    console = console_for(False)
    show_table(rows, console)
    show_differences(found, console)
    for path in draw_curves(rows, root / "board" / "all"):
        console.print(f"curve: {path}", soft_wrap=True)


@app.command()
def verify(
    out: Annotated[list[str] | None, typer.Option(help="Folder of runs; repeatable.")] = None,
    points: Annotated[float, typer.Option(help="Tolerance in accuracy, in points.")] = 0.5,
    share: Annotated[float, typer.Option(help="Relative tolerance in a density that came out.")] = 0.1,
    every: Annotated[bool, typer.Option("--all", help="Also list what is untested.")] = False,
    run: Annotated[str | None, typer.Option(help="Count and evaluate this run again, from its files alone.")] = None,
    accuracy_tolerance: Annotated[float, typer.Option(help="With --run: in points, for another processor.")] = 0.05,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Compare runs with the published claims: confirmed, contradicted, partly, underpowered or untested."""
    if run is not None:
        from harness.cli.options import export_data_root

        export_data_root(data_root)
        _verify_run(out[0] if out else None, run, accuracy_tolerance, as_json)
        return
    from harness.board.claims import load_claims
    from harness.board.claims import verify as verify_claim
    from harness.board.table import show_verified
    from harness.config.recipes import out_root
    from harness.track.record import results_by_fingerprint

    runs = results_by_fingerprint([out_root(o) for o in out] if out else [out_root(None)])
    found = []
    for claim in load_claims():
        ids = fingerprints_of(claim.recipe, claim.method, claim.density) if claim.recipe else set()
        found.append(verify_claim(claim, [r for i in sorted(ids) for r in runs.get(i, [])], points, share))
    if as_json:
        print(json.dumps([{**asdict(v), "claim": v.claim.model_dump()} for v in found], indent=1))
        return
    show_verified(found, points, share, every, console_for(False))


def _verify_run(out: str | None, run: str, points: float, as_json: bool) -> None:
    from harness.config.recipes import out_root
    from harness.track.record import VERIFIED, write_whole
    from harness.train.reevaluate import reevaluate

    folder = out_root(out) / run
    again = reevaluate(folder, points / 100)
    write_whole(folder / VERIFIED, json.dumps(asdict(again), indent=1) + "\n")
    if as_json:
        print(json.dumps(asdict(again)))
    else:
        print(
            f"{run}: {again.n_active:,} active weights, {again.n_nonzero:,} not zero, test accuracy "
            f"{100 * again.test_accuracy:.2f} % (recorded {100 * again.recorded_accuracy:.2f} %): "
            + ("verified" if not again.faults else "NOT verified")
        )
        for fault in again.faults:
            print(f"  {fault}")
    if again.faults:
        raise typer.Exit(3)


def fingerprints_of(recipe: str, method: str, density: float | None) -> set[str]:
    """Who the runs of a claim are: those of its method in its recipe, at its density where one is asked for."""
    from harness.config import cells_of, fingerprint, load_recipe, registry

    configs = [cell.config for cell in cells_of(load_recipe(recipe))]
    asked = method in registry.METHODS and registry.load("method", method, registry.METHODS).takes_density
    wanted = [c for c in configs if c.method.name == method]
    return {fingerprint(c) for c in wanted if not asked or density in (None, c.method.density)}


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
