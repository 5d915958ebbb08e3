"""`harness plan`: the price before the launch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.app import app
from harness.cli.options import DataRoot, Json, Out, Seeds, Set, console_for, export_data_root, parse_seeds, patch_of

if TYPE_CHECKING:
    from rich.console import Console

    from harness.tune.plan import Device, Planned


@app.command()
def plan(
    suite: Annotated[str, typer.Argument(help="A recipe or suite of `harness recipes`, or a .yaml file.")],
    device: Annotated[str, typer.Option(help="What the runs will be on, from the table of devices.")] = "h100",
    devices: Annotated[Path | None, typer.Option(help="A table of your own: rates, memory, prices.")] = None,
    gpus: Annotated[int, typer.Option(help="How many of them at a time.", min=1)] = 8,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time the first steps of each method here instead.")
    ] = False,
    settings: Set = None,
    seeds: Seeds = None,
    methods: Annotated[str | None, typer.Option(help="Only these methods of the suite, comma-separated.")] = None,
    out: Out = None,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Cells, FLOPs, device-hours, memory, disk and money of what is not done yet; launches nothing."""
    from harness.config import cells_of, fingerprint, load_recipe
    from harness.config.recipes import out_root
    from harness.tune.plan import device_of, plan_cells

    export_data_root(data_root)
    found, console = load_recipe(suite), console_for(as_json)
    patch = patch_of(settings, data_root, None, None, None, None, None)
    cells = cells_of(found, patch, parse_seeds(seeds) if seeds else None, methods.split(",") if methods else None)
    table = device_of(device, devices)
    measured: dict[str, float] = {}
    if measure:
        from harness.train.cost import measure_cost

        for cell in cells:
            who = fingerprint(cell.config)
            if who not in measured:
                measured[who] = measure_cost(cell.config, cell.seed).of(cell.config)
    planned = plan_cells(cells, out_root(out), table, measured)
    summary = summarise(planned, table, gpus)
    if as_json:
        rows = [{"run_id": p.cell.run_id, "done": p.done, "seconds": p.seconds, **asdict(p.need)} for p in planned]
        print(
            json.dumps({"suite": found.name, "device": device, "measured": measure, **summary, "cells": rows}, indent=1)
        )
        return
    show(
        planned,
        summary,
        f"{found.name} on {gpus} x " + ("this machine's device, measured" if measure else device),
        console,
    )


def summarise(planned: list[Planned], device: Device, gpus: int) -> dict[str, Any]:
    """Of what is not done. Device hours are of all; wall time is those divided, and no less than the longest run."""
    from harness.tune.plan import largest_batch

    left = [(p, 1 - p.done) for p in planned if p.done < 1]
    low, high = (sum(share * p.seconds[i] for p, share in left if p.seconds) / 3600 for i in range(2))
    longest = [max((share * p.seconds[i] / 3600 for p, share in left if p.seconds), default=0.0) for i in range(2)]
    widest = max(planned, key=lambda p: p.need.fixed_bytes + p.cell.config.data.batch_size * p.need.image_bytes)
    batch = widest.cell.config.data.batch_size // widest.cell.config.engine.workers
    return {
        "n_cells": len(planned), "n_done": sum(p.done == 1 for p in planned), "n_left": len(left),
        "dense_flops": sum(share * p.need.dense_flops for p, share in left),
        "sparse_flops": sum(share * p.need.sparse_flops for p, share in left),
        "device_hours": [low, high], "wall_hours": [max(low / gpus, longest[0]), max(high / gpus, longest[1])],
        "memory_gb": (widest.need.fixed_bytes + batch * widest.need.image_bytes) / 1e9,
        "largest_batch": largest_batch(widest.need, device),
        "disk_gb": sum(p.need.disk_bytes for p in planned) / 1e9,
        "price": None if device.price_per_hour is None else [device.price_per_hour * h for h in (low, high)],
    }  # fmt: skip


def show(planned: list[Planned], summary: dict[str, Any], title: str, console: Console) -> None:
    from rich.table import Table

    from harness.config.schema import label_of
    from harness.tune.progress import duration

    table = Table(box=None, header_style="bold", title=title, title_justify="left")
    for column in ("method", "runs", "done", "steps", "PFLOP", "counted sparse", "each on one device"):
        table.add_column(column, justify="left" if column == "method" else "right")
    alike: dict[str, list[Planned]] = {}
    for p in planned:
        alike.setdefault(label_of(p.cell.config.method), []).append(p)
    for label, group in alike.items():
        need, seconds = group[0].need, group[0].seconds
        each = "-" if seconds is None else f"{duration(seconds[0])} to {duration(seconds[1])}"
        n_done = sum(p.done == 1 for p in group)
        table.add_row(label, str(len(group)), str(n_done), f"{need.steps:,}", f"{need.dense_flops / 1e15:,.3g}",
                      f"{need.sparse_flops / 1e15:,.3g}", each)  # fmt: skip
    console.print(table)
    low, high = summary["device_hours"]
    wall = summary["wall_hours"]
    money = "" if summary["price"] is None else f"; {summary['price'][0]:,.0f} to {summary['price'][1]:,.0f} in money"
    console.print(
        f"{summary['n_left']} of {summary['n_cells']} runs to do: {summary['dense_flops'] / 1e15:,.3g} PFLOP, "
        f"{low:,.3g} to {high:,.3g} device hours, {duration(3600 * wall[0])} to {duration(3600 * wall[1])} of wall time"
        f"{money}",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    console.print(
        f"memory of the largest: {summary['memory_gb']:.3g} GB a device, where a batch of up to "
        f"{summary['largest_batch']:,} fits; disk: up to {summary['disk_gb']:.3g} GB; computed, not measured",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    if summary["price"] is None:
        console.print("no money: the table of devices has no price_per_hour (--devices FILE)", highlight=False)
