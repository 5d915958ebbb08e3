"""`harness board`, `verify`, `export`, `import`: what the runs show, and where they go from here."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.app import app
from harness.cli.options import DataRoot, Json, Out, Tracking, console_for, draw_curves
from harness.errors import HarnessError

MOST_ROWS = 400
"""More are not printed, nor drawn, unless they are asked for: a terminal is no place to read them."""


@app.command()
def board(
    out: Out = None,
    tracking: Tracking = None,
    as_json: Json = False,
    save: Annotated[Path | None, typer.Option(help="Write rows, versions and commits to this JSON file.")] = None,
    made_by: Annotated[str | None, typer.Option(help="The command that made them, for --save and --html.")] = None,
    verified_only: Annotated[
        bool, typer.Option("--verified-only", help="Only runs that `harness verify --run` verified.")
    ] = False,
    against: Annotated[str | None, typer.Option(help="Also show differences by seed to this method.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page to publish, into this folder.")] = None,
    export: Annotated[
        list[Path] | None, typer.Option(help="Write the tables to this .csv, .md, .tex or .json file; repeatable.")
    ] = None,
    density: Annotated[list[float] | None, typer.Option(help="Only this density, and dense; repeatable.")] = None,
    data: Annotated[str | None, typer.Option(help="Only this data set.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only this method; repeatable.")] = None,
    claims: Annotated[bool, typer.Option(help="Show published numbers beside ours.")] = True,
    wide: Annotated[bool, typer.Option("--wide", help="All columns: cost, bootstrap, device, tuning.")] = False,
    every: Annotated[bool, typer.Option("--all", help=f"Print and draw more than {MOST_ROWS} rows.")] = False,
) -> None:
    """Show the leaderboard: from the records in --out, or, with --tracking, from a tracking server alone."""
    from harness.board.claims import POINTS, SHARE, load_claims
    from harness.board.differences import differences
    from harness.board.formats import in_format_of
    from harness.board.ranking import judged, narrowed
    from harness.board.rows import Row, as_plain, as_report, rows_from_results
    from harness.board.table import show_differences, show_summary, show_table
    from harness.track.record import write_whole

    source = _source(out, tracking)
    results = source.results()
    if not results:
        raise HarnessError(f"no results in {source.place}: run `harness bench demo` first, or give --out DIR")
    verifications = source.verifications()
    if verified_only:
        if verifications is None:
            raise HarnessError("--verified-only reads what `harness verify --run` left in --out: leave out --tracking")
        results = [r for r in results if verifications.get(r["run_id"]) == []]
        if not results:
            raise HarnessError(
                f"no verified run in {source.place}: `harness verify --run RUN_ID --out {source.place}` first"
            )
    rows = rows_from_results(results, verifications)

    def wanted(row: Row) -> bool:
        near = not density or row.density == 1 or any(abs(row.density / d - 1) < 1e-6 for d in density)
        return near and (data is None or row.data == data) and (not method or row.method in method)

    tables = narrowed(judged(rows), wanted)
    kept = [row for row in rows if wanted(row)]
    if not kept:
        raise HarnessError(f"none of the {len(rows)} rows is left: {_choices(rows)}")
    found = differences(kept, against) if against else []
    if against and not found:
        raise HarnessError(f"nothing to compare with '{against}'; found: {', '.join(sorted({r.method for r in kept}))}")
    if save is not None:
        report = as_report(results, made_by, source.events)
        report |= {"differences": [asdict(d) for d in found]} if found else {}
        write_whole(save, json.dumps(report, indent=1) + "\n")
    for path in export or []:
        write_whole(path, in_format_of(path, tables))
    published = load_claims() if claims else []
    if html is not None:
        from harness.board.page import write_site

        checked = verified_claims(published, source.by_fingerprint(), POINTS, SHARE)
        page = write_site(html, tables, published, checked, source, made_by)
        console_for(as_json).print(f"page: {page}", soft_wrap=True)
    if as_json:
        print(json.dumps([as_plain(r) for r in kept], indent=1))
        return
    console = console_for(False, 220 if wide else None)
    for path in export or []:
        console.print(f"table: {path}", soft_wrap=True)
    if len(kept) > MOST_ROWS and not every:
        show_summary(tables, console)
        return
    show_table(tables, console, published, wide)
    show_differences(found, console)
    waiting = source.unfinished()
    if waiting:
        console.print(f"{len(waiting)} runs have no result yet, or were stopped: {', '.join(waiting[:5])}"
                      + (", ..." if len(waiting) > 5 else ""), style="yellow", soft_wrap=True)  # fmt: skip
    for path in draw_curves(kept, source.curves, published):
        console.print(f"curve: {path}", soft_wrap=True)


def _source(out: str | None, tracking: str | None) -> Any:
    from harness.board.source import Records, Server
    from harness.config.recipes import out_root

    root = out_root(out)
    return Server(tracking, root) if tracking else Records(root)


def _choices(rows: list[Any]) -> str:
    held = {"data": {r.data for r in rows}, "method": {r.method for r in rows}}
    said = [f"--{name} {', '.join(sorted(values))}" for name, values in held.items()]
    return "; ".join([*said, f"--density {', '.join(f'{d:g}' for d in sorted({r.density for r in rows}))}"])


@app.command()
def verify(
    out: Annotated[list[str] | None, typer.Option(help="Folder of runs; repeatable.")] = None,
    points: Annotated[float | None, typer.Option(help="Tolerance in accuracy, in points (0.5).")] = None,
    share: Annotated[float | None, typer.Option(help="Relative tolerance in a density that came out (0.1).")] = None,
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
    from harness.board.claims import POINTS, SHARE, load_claims
    from harness.board.table import show_verified
    from harness.config.recipes import out_root
    from harness.track.record import results_by_fingerprint

    runs = results_by_fingerprint([out_root(o) for o in out] if out else [out_root(None)])
    points, share = POINTS if points is None else points, SHARE if share is None else share
    found = verified_claims(load_claims(), runs, points, share)
    if as_json:
        print(json.dumps([{**asdict(v), "claim": v.claim.model_dump()} for v in found], indent=1))
        return
    show_verified(found, points, share, every, console_for(False))


def verified_claims(claims: list[Any], runs: dict[str, list[dict[str, Any]]], points: float, share: float) -> list[Any]:
    """Each claim beside the runs of its recipe. runs: by fingerprint."""
    from harness.board.claims import verify as verify_claim

    found = []
    for claim in claims:
        ids = fingerprints_of(claim.recipe, claim.label, claim.density) if claim.recipe else set()
        found.append(verify_claim(claim, [r for i in sorted(ids) for r in runs.get(i, [])], points, share))
    return found


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
    """Who the runs of a claim are: those of its method in its recipe, at its density where one is asked for.

    HarnessError for a recipe that does not train what the claim says.
    """
    from harness.config import cells_of, fingerprint, load_recipe, registry
    from harness.config.schema import shown_name

    configs = [cell.config for cell in cells_of(load_recipe(recipe))]
    found = set()
    for config in configs:
        asked = registry.load("method", config.method.name, registry.METHODS).takes_density
        if shown_name(config.method) == method and (not asked or density in (None, config.method.density)):
            found.add(fingerprint(config))
    if not found:
        held = sorted({f"{shown_name(c.method)} at {c.method.density:g}" for c in configs})
        raise HarnessError(
            f"a claim names recipe {recipe} for {method} at density {density}, which it does not train; it has: "
            f"{', '.join(held)}"
        )
    return found


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="The archive to write: .tar.gz or .tar.xz.")],
    out: Out = None,
    tensors: Annotated[
        bool, typer.Option("--weights", help="With masks and weights, to verify runs elsewhere.")
    ] = False,
) -> None:
    """Pack all records in --out into one archive, for `harness import` elsewhere."""
    from harness.config.recipes import out_root
    from harness.track.archive import export_records

    if not path.name.endswith((".tar.gz", ".tar.xz")):
        raise HarnessError(f"{path}: give a name that ends in .tar.gz or .tar.xz")
    n_runs, n_studies = export_records(out_root(out), path, tensors)
    studies = f" and {n_studies} searches" if n_studies else ""
    print(f"{path}: {n_runs} runs{studies}, {path.stat().st_size / 1e6:.2f} MB")


@app.command("import")
def import_(path: Annotated[Path, typer.Argument(help="An archive of `harness export`.")], out: Out = None) -> None:
    """Bring the records of an archive into --out; what is there already is left alone."""
    from harness.config.recipes import out_root
    from harness.track.archive import import_records

    if not path.exists():
        raise HarnessError(f"{path} does not exist")
    done = import_records(path, out_root(out))
    print(f"{len(done.new)} runs and searches came into {out_root(out)}, {len(done.held)} were there already")
