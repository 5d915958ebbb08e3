"""`harness plan`: the price before the launch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.app import app
from harness.cli.options import (
    Address,
    DataRoot,
    EngineName,
    Json,
    Out,
    Seeds,
    Set,
    Workers,
    ZeroStage,
    console_for,
    export_data_root,
    parse_seeds,
    patch_of,
)
from harness.errors import HarnessError

if TYPE_CHECKING:
    from rich.console import Console

    from harness.config import Cell
    from harness.train.cost import Cost
    from harness.tune.plan import Device, Planned


@app.command()
def plan(
    suite: Annotated[str, typer.Argument(help="A recipe or suite of `harness recipes`, or a .yaml file.")],
    device: Annotated[str, typer.Option(help="What the runs will be on, from the table of devices.")] = "h100",
    devices: Annotated[Path | None, typer.Option(help="A table of your own: rates, memory, prices.")] = None,
    gpus: Annotated[
        int | None, typer.Option(help="How many of them at a time (default 8; measured: what is there).", min=1)
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time the first steps of each method at --address, not by the table.")
    ] = False,
    address: Address = "local",
    settings: Set = None,
    seeds: Seeds = None,
    methods: Annotated[str | None, typer.Option(help="Only these methods of the suite, comma-separated.")] = None,
    workers: Workers = None,
    engine: EngineName = None,
    zero_stage: ZeroStage = None,
    out: Out = None,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Cells, FLOPs, device-hours, memory, disk and money of what is not done yet; launches nothing.

    Of what is done, how far the estimate was off.
    """
    from harness.config import cells_of, load_recipe
    from harness.config.recipes import out_root
    from harness.tune.plan import device_of, plan_cells

    export_data_root(data_root)
    found, console = load_recipe(suite), console_for(as_json)
    patch = patch_of(settings, data_root, None, None, workers, engine, zero_stage)
    cells = cells_of(found, patch, parse_seeds(seeds) if seeds else None, methods.split(",") if methods else None)
    table, root, measured = device_of(device, devices), out_root(out), None
    if measure:
        measured, there = measure_at(address, cells, root)
        gpus = gpus or there
    gpus = gpus or 8
    planned = plan_cells(cells, root, table, measured)
    summary = summarise(planned, table, gpus, None if measure else device)
    if as_json:
        rows = [
            {
                "run_id": p.cell.run_id,
                "done": p.done,
                "seconds": p.seconds,
                "training": p.training,
                "took": p.took,
                **asdict(p.need),
            }
            for p in planned
        ]
        print(
            json.dumps({"suite": found.name, "device": device, "measured": measure, **summary, "cells": rows}, indent=1)
        )
        return
    where = f"{'this machine' if address == 'local' else address}, measured" if measure else device
    show(planned, summary, f"{found.name} on {gpus} x {where}", device, console)


def measure_at(address: str, cells: list[Cell], out: Path) -> tuple[list[Cost], int]:
    """What each run costs there, and how many devices there are."""
    from harness.tune.cluster import check_fits, connected, uses_gpu
    from harness.tune.estimate import costs_of
    from harness.tune.launch import at_once

    with connected(address) as resources:
        check_fits(cells, resources)
        costs = costs_of(cells, out, 1.0 if uses_gpu(cells[0], resources) else 0.0)
        n_devices = at_once(cells[0], resources, 1.0) * cells[0].config.engine.workers
    if costs is None:
        raise HarnessError("no run could take its first steps there: harness train RECIPE says what keeps it from that")
    return costs, n_devices


def summarise(planned: list[Planned], device: Device, gpus: int, by_table: str | None = None) -> dict[str, Any]:
    """Of what is not done. Device hours are of all; wall time is those divided, and no less than the longest run.

    by_table: the device that estimates are of, where they were not measured.
    """
    from harness.tune.nodes import LEAST_SHARED
    from harness.tune.plan import largest_batch

    left = [(p, 1 - p.done) for p in planned if p.done < 1]
    low, high = (sum(share * p.seconds[i] for p, share in left) / 3600 for i in range(2))
    longest = [
        max((share * p.seconds[i] / p.cell.config.engine.workers / 3600 for p, share in left), default=0.0)
        for i in range(2)
    ]
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
        "shared_gb": LEAST_SHARED,
        "price": None if device.price_per_hour is None else [device.price_per_hour * h for h in (low, high)],
        "done": truth([p for p in planned if p.took is not None], by_table),
    }  # fmt: skip


def truth(done: list[Planned], by_table: str | None) -> dict[str, Any] | None:
    """What the runs that are done took, beside what is said of them here; `off` is None for other devices."""
    if not done:
        return None
    took = sum(p.took or 0.0 for p in done) / 3600
    low, high = (sum(p.training[i] for p in done) / 3600 for i in range(2))
    off: float | None = low / took - 1 if took < low else high / took - 1 if took > high else 0.0
    if by_table is not None and not all(by_table.lower() in p.where.lower() for p in done):
        off = None
    return {"device_hours": took, "estimated": [low, high], "devices": sorted({p.where for p in done}), "off": off}


def show(planned: list[Planned], summary: dict[str, Any], title: str, device: str, console: Console) -> None:
    from rich.table import Table

    from harness.config.schema import label_of
    from harness.tune.progress import duration

    table = Table(box=None, header_style="bold", title=title, title_justify="left")
    for column in ("method", "runs", "done", "steps", "PFLOP", "counted sparse", "device time of each", "took"):
        table.add_column(column, justify="left" if column == "method" else "right")
    alike: dict[str, list[Planned]] = {}
    for p in planned:
        alike.setdefault(label_of(p.cell.config.method), []).append(p)
    for label, group in alike.items():
        need, (least, most) = group[0].need, group[0].seconds
        took = [p.took for p in group if p.took is not None]
        n_done = sum(p.done == 1 for p in group)
        table.add_row(label, str(len(group)), str(n_done), f"{need.steps:,}", f"{need.dense_flops / 1e15:,.3g}",
                      f"{need.sparse_flops / 1e15:,.3g}", f"{duration(least)} to {duration(most)}",
                      duration(median(took)) if took else "-")  # fmt: skip
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
        f"memory of the largest: {summary['memory_gb']:.3g} GB a device; a batch of up to "
        f"{summary['largest_batch']:,} fits on {device}; disk: up to {summary['disk_gb']:.3g} GB; shared memory of a "
        f"node: {summary['shared_gb']:g} GB, for Ray and NCCL (loaders are threads); computed, not measured",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    if summary["price"] is None:
        console.print("no money: the table of devices has no price_per_hour (--devices FILE)", highlight=False)
    if (done := summary["done"]) is not None:
        (low, high), off = done["estimated"], done["off"]
        verdict = (
            ": right" if off == 0 else "" if off is None else f": {abs(off):.0%} too {'much' if off > 0 else 'little'}"
        )
        of = "" if off is not None else f" on {device}"
        console.print(
            f"the {summary['n_done']} that are done trained for {done['device_hours']:,.3g} device hours "
            f"({', '.join(done['devices'])}); estimated{of}: {low:,.3g} to {high:,.3g}{verdict}",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
