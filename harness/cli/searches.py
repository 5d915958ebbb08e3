"""`harness tune`, `harness study`, `harness searches`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.app import app
from harness.cli.lists import show_list
from harness.cli.options import (
    Address,
    DataRoot,
    Device,
    EngineName,
    GpuShare,
    Json,
    Out,
    Set,
    Tracking,
    Workers,
    ZeroStage,
    console_for,
    export_data_root,
    patch_of,
)  # fmt: skip
from harness.errors import HarnessError

if TYPE_CHECKING:
    from rich.console import Console

    from harness.tune.search import Search


@app.command()
def tune(
    search: Annotated[str, typer.Argument(help="A name of `harness searches`, or a .yaml file.")],
    trials: Annotated[int | None, typer.Option(help="Trials in all, instead of the search's.", min=1)] = None,
    hours: Annotated[float | None, typer.Option(help="Wall hours in all, instead of the search's.")] = None,
    concurrent: Annotated[int | None, typer.Option(help="Trials at the same time, at most.", min=1)] = None,
    methods: Annotated[str | None, typer.Option(help="Only these methods of the search, comma-separated.")] = None,
    equal_budget: Annotated[
        bool, typer.Option("--equal-budget", help="Give every method as many trials as the one that has most.")
    ] = False,
    warm_from: Annotated[str | None, typer.Option("--from", help="Try first what was best in this study.")] = None,
    top: Annotated[int, typer.Option(help="How many, with --from.", min=1)] = 8,
    name: Annotated[str | None, typer.Option(help="Name of the study (default: the search's).")] = None,
    settings: Set = None,
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
    """Search for the best setting; the same command again continues, or shows the result."""
    from harness.config.recipes import out_root
    from harness.track.record import make_writable
    from harness.tune.search import load_search, with_budget
    from harness.tune.tuning import proposals_from, studies_root

    root, console = make_writable(out_root(out)), console_for(as_json)
    export_data_root(data_root)
    patch = patch_of(settings, data_root, tracking, device, workers, engine, zero_stage)
    found = load_search(search, patch, methods.split(",") if methods else None, name)
    if trials or hours:
        found = [with_budget(s, trials, hours) for s in found]
    if equal_budget:
        found = equalise(found, studies_root(root), console)
    warm = proposals_from(studies_root(root), warm_from, top) if warm_from else []
    summaries = [_tune(s, root, address, console, concurrent, gpu_share, warm) for s in found]
    if as_json:
        print(json.dumps(summaries if len(summaries) > 1 else summaries[0]))
        return
    for one in summaries:
        show_summary(one, studies_root(root) / one["name"], console)
    if len(summaries) > 1 and len(summaries[0]["objectives"]) == 1:  # fronts have no one order
        show_comparison(summaries, console)


def _tune(
    search: Search, root: Path, address: str, console: Console, concurrent: int | None, gpu_share: float,
    warm: list[dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """One study, its trials mirrored to the tracking server as children of a run of its name."""
    from harness.track.mirror import BackgroundMirror, default_uri
    from harness.tune.report import write_report
    from harness.tune.study import load_trials
    from harness.tune.tuning import BEST, SUMMARY, run_search, studies_root

    folder = studies_root(root) / search.name
    dirs: list[Path] = []
    console.print(f"{search.name}: {search.file.description or 'a search'}", soft_wrap=True)
    tracking, mirror = search.base.tracking, None
    if tracking.uri != "none":
        uri = tracking.uri or default_uri(root)
        mirror = BackgroundMirror(uri, tracking.experiment, root, dirs, search.name)

    def follow(run_dir: Path, name: str) -> None:
        if mirror is not None:
            if run_dir.name not in mirror.mirror.names:
                dirs.append(run_dir)
            mirror.mirror.names[run_dir.name] = name

    try:
        summary = run_search(search, root, address, console, concurrent, gpu_share, warm, follow)
    finally:
        if mirror is not None:
            mirror.close()  # a search that stopped or failed leaves its trials there as they are
    paths = write_report(load_trials(folder, search.name), summary, folder)
    if mirror is not None:
        mirror.close_study(summary, [p for p in (folder / BEST, folder / SUMMARY, *paths) if p.exists()])
    return summary


def equalise(found: list[Search], studies: Path, console: Console) -> list[Search]:
    """Searches with the same budget: the most trials any of their studies was or will be given."""
    from harness.tune.search import with_budget
    from harness.tune.study import n_trials

    if len(found) < 2:
        raise HarnessError("--equal-budget compares methods: the search needs a methods section, and two of them")
    if found[0].file.budget.trials is None:
        return found  # hours or FLOPs: already the same for all
    most = max(max(s.file.budget.trials or 0, n_trials(studies / s.name, s.name)) for s in found)
    console.print(f"{len(found)} methods, {most} trials each, the same sampler, pruner and seeds")
    return [with_budget(s, most, None) for s in found]


def show_summary(summary: dict[str, Any], folder: Path, console: Console) -> None:
    from rich.table import Table

    from harness.tune.report import shown

    metrics = [o["metric"] for o in summary["objectives"]]
    states = ", ".join(f"{n} {state}" for state, n in summary["states"].items() if n)
    console.print(
        f"{summary['name']}: {summary['n_trials']} trials ({states}), "
        f"{summary['train_seconds'] / 60:.1f} minutes of training"
    )
    by_number = {t["number"]: t for t in summary["trials"]}
    table = Table(box=None, header_style="bold")
    several = len(metrics) > 1
    for column in ("trial", *metrics) if several else ("trial", f"{metrics[0]} in the search", "fresh seeds"):
        table.add_column(column, justify="right")
    table.add_column("parameters")
    fresh = {c["number"]: shown(c) for c in summary["confirmed"]}
    for number in summary["front"] if several else list(fresh) or [summary["best"]]:
        trial = by_number[number]
        values = [f"{v:.4g}" for v in trial["values"]]
        values += [] if several else [fresh.get(number, "-")]
        table.add_row(str(number), *values, short_params(trial["params"]))
    console.print(table)
    reasons = {t["reason"] for t in summary["trials"] if "reason" in t}
    for reason in sorted(reasons)[:5]:
        console.print(f"failed: {reason}", style="red")
    best = (
        f"front: {folder / 'front'}"
        if several
        else f"best: {folder / 'best.yaml'}  (harness train {folder / 'best.yaml'})"
    )
    console.print(f"{best}\nreport: {folder / 'report.html'}", soft_wrap=True)


def short_params(params: dict[str, Any]) -> str:
    return "  ".join(
        f"{name.split('.', 1)[-1]}={f'{v:.3g}' if isinstance(v, float) else v}" for name, v in sorted(params.items())
    )


def show_comparison(summaries: list[dict[str, Any]], console: Console) -> None:
    from rich.table import Table

    from harness.tune.fairness import compare

    table = Table(title="methods on the same terms", title_justify="left")
    for column in ("study", "trials", "training min", "GPU-h", "best in search", "fresh seeds", "n", "of 5*", "of 20*"):  # fmt: skip  # noqa: E501
        table.add_column(column, justify="left" if column == "study" else "right")
    for line in compare(summaries):
        curve = line["expected_best"]
        at = [f"{curve[n - 1]:.4f}" if len(curve) >= n else "-" for n in (5, 20)]
        spread = f" ± {line['fresh_std']:.4f}" if line["fresh_std"] is not None else ""
        fresh = f"{line['fresh_mean']:.4f}{spread}" if line["fresh_mean"] is not None else "-"
        searched = f"{line['best_searched']:.4f}" if line["best_searched"] is not None else "-"
        table.add_row(
            line["study"], str(line["trials"]), f"{line['train_seconds'] / 60:.1f}", f"{line['gpu_hours']:.2f}",
            searched, fresh, str(line["n_fresh"]), *at,
        )  # fmt: skip
    console.print(table)
    console.print("*: expected best of so many trials of the search", style="dim")


@app.command()
def study(
    name: Annotated[str | None, typer.Argument(help="A study in --out; without it, they are listed.")] = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Show a study: its best trials, what mattered, where its report lies."""
    from harness.config.recipes import out_root
    from harness.tune.report import importances, transfer, write_report
    from harness.tune.study import JOURNAL, load_trials
    from harness.tune.tuning import SUMMARY, studies_root

    studies = studies_root(out_root(out))
    if name is None:
        names = sorted(p.parent.name for p in studies.glob(f"*/{JOURNAL}"))
        if not names:
            raise HarnessError(f"no studies in {studies}: run `harness tune` first, or give --out DIR")
        rows = []
        for one in names:
            held = load_trials(studies / one, one)
            states = [t.state.name.lower() for t in held.get_trials(deepcopy=False)]
            shown = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
            rows.append({"study": one, "trials": len(states), "states": shown})
        show_list(rows, as_json)
        return
    folder = studies / name
    held = load_trials(folder, name)
    if not (folder / SUMMARY).exists():
        states = [t.state.name.lower() for t in held.get_trials(deepcopy=False)]
        raise HarnessError(
            f"the study {name} is not finished: {', '.join(f'{states.count(s)} {s}' for s in dict.fromkeys(states))}; "
            "`harness tune` with its search continues it"
        )
    summary = json.loads((folder / SUMMARY).read_text())
    ranked, moved = importances(held), transfer(held)
    paths = write_report(held, summary, folder)
    if as_json:
        print(json.dumps({**summary, "importances": ranked, "transfer": moved, "files": [str(p) for p in paths]}))
        return
    console = console_for(False)
    show_summary(summary, folder, console)
    for line in ranked:
        console.print(f"{line['importance']:6.1%}  {line['parameter']}  ({line['n_trials']} trials)", highlight=False)
    if moved is not None:
        console.print(
            f"ranks of the {moved['n']} proposals taken over: Spearman {moved['spearman']:.2f} (p = {moved['p']:.2g})"
        )
    console.print(f"plots: {folder / 'study.png'}", soft_wrap=True)


@app.command()
def searches(as_json: Json = False) -> None:
    """List the shipped searches."""
    from harness.tune.search import load_search, shipped_searches

    rows = []
    for name in shipped_searches():
        found = load_search(name)
        varied = dict.fromkeys(key for s in found for key in s.spaces)
        rows.append({"name": name, "description": found[0].file.description, "varies": ", ".join(varied)})
    show_list(rows, as_json)
