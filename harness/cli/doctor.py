"""`harness doctor`: this machine, or every node of a cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from harness.cli.app import app
from harness.cli.options import DataRoot, Json, Out, Tracking


@app.command()
def doctor(
    out: Out = None,
    data_root: DataRoot = None,
    tracking: Tracking = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Check every node of a Ray cluster; 'auto' is the one this machine is in."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --address: whose data the nodes must have. With --tune-loader: whose network is to be fed.",
        ),
    ] = None,
    tune_loader: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Measure this image folder of the data root at several settings."),
    ] = None,
    image_size: Annotated[int, typer.Option(help="With --tune-loader: side of the images.", min=8)] = 224,
    seconds: Annotated[float, typer.Option(help="With --tune-loader: for each setting.", min=0.1)] = 4.0,
    as_json: Json = False,
) -> None:
    """Check this machine, or every node of a cluster: what is missing and what to do."""
    if address is not None:
        _cluster(address, out, data_root, recipe, as_json)
        return
    if tune_loader is not None:
        _tune_loader(tune_loader, data_root, image_size, seconds, recipe, as_json)
        return
    from harness.config.recipes import out_root
    from harness.doctor import examine

    findings = examine(out_root(out), data_root or os.environ.get("HARNESS_DATA"), tracking)
    if as_json:
        print(json.dumps([vars(f) for f in findings], indent=1))
    else:
        _show([(f.state, f.what, f.found, f.advice) for f in findings], ("", "what", "found", "what to do"))
    if any(f.state == "missing" for f in findings):
        raise typer.Exit(3)


COLOURS = {"ok": "green", "warning": "yellow", "missing": "red"}


def _show(rows: Sequence[tuple[str, ...]], columns: tuple[str, ...]) -> None:
    """The first column is a state, in its colour."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in columns:
        table.add_column(column)
    for state, *rest in rows:
        table.add_row(f"[{COLOURS[state]}]{state}[/]", *map(escape, rest))
    Console().print(table)


def _cluster(address: str, out: str | None, data_root: str | None, recipe: str | None, as_json: bool) -> None:
    """Ask every node; a cluster in which a run would fail, or mislead, ends with exit code 3."""
    from harness.config import cells_of, load_recipe
    from harness.config.recipes import out_root
    from harness.config.schema import DataConfig
    from harness.train.machine import software
    from harness.tune.cluster import connected
    from harness.tune.nodes import doubts, faults, survey

    runs = out_root(out)
    data: list[DataConfig] = []
    if recipe is not None:
        cells = cells_of(load_recipe(recipe), {"data": {"root": data_root}} if data_root else {})
        data = list({c.config.data.model_dump_json(): c.config.data for c in cells}.values())
    with connected(address):
        nodes = survey(runs, data)
    wrong, doubtful = list(faults(nodes, software(), runs)), list(doubts(nodes))
    if as_json:
        print(json.dumps({"nodes": [asdict(n) for n in nodes], "faults": wrong, "doubts": doubtful}, indent=1))
    else:
        rows = []
        for n in nodes:
            told = [line for line in wrong + doubtful if line.startswith(f"node {n.name}")]
            bad = any(line.startswith(f"node {n.name}") for line in wrong)
            sees = "yes" if n.sees_runs else "no"
            network = " ".join(f"{k}={v}" for k, v in n.network.items()) or "-"
            rows.append((
                "missing" if bad else "warning" if told else "ok", n.name, n.address, "yes" if n.trains else "no",
                ", ".join(n.gpus) or "none", n.nccl or "-", sees, f"{n.disk_gib:.0f}", f"{n.clock_s:+.1f}", network,
            ))  # fmt: skip
        _show(rows, ("", "node", "address", "trains", "GPUs", "NCCL", "sees runs", "disk GiB", "clock s", "network"))
        for line in wrong + doubtful:
            print(line)
        print(f"{len(nodes)} nodes: " + (f"{len(wrong)} faults" if wrong else "ready") + f"; {software()}")
    if wrong:
        raise typer.Exit(3)


def _tune_loader(
    folder: str, data_root: str | None, image_size: int, seconds: float, recipe: str | None, as_json: bool
) -> None:
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
    trains = None
    if recipe is not None:
        from harness.config import cells_of, load_recipe
        from harness.data.sizes import sizes_of
        from harness.train.cost import images_per_second

        cell = cells_of(load_recipe(recipe), {"data": {"image_size": image_size, "root": root}})[0]
        trains = images_per_second(cell.config, sizes_of(config).inputs.n_classes, seconds)
    setting = f"--set data.threads={best.threads} --set data.prefetch={best.prefetch}"
    if as_json:
        facts = {"device": str(device), "rates": [asdict(r) for r in rates], "best": asdict(best), "trains": trains}
        print(json.dumps(facts, indent=1))
        return
    if trains is not None:
        slower = "the network is the limit" if trains < best.images_per_second else "the loader is the limit"
        share = min(1.0, best.images_per_second / trains)
        print(f"{recipe} trains {trains:,.0f} images/s when nothing is loaded: {slower}, {100 * share:.0f} % of that")
    print(f"{setting}: {best.images_per_second:,.0f} images/s to the {device.type} from {folder}, one process")
