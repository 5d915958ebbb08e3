"""How many runs the machinery carries: light cells through Ray Tune, the study and the mirror; then, by simulation with
what they cost, as many nodes as there are not.

HARNESS_CELLS: how many cells (default 1,000). What a large run moves in a step is arithmetic over published rates.
"""

from __future__ import annotations

import heapq
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure, show

FAKE_GPUS = 8
"""Trials at once: fake GPUs, on the cores there are."""

GPUS_OF_A_NODE = 8
NODES = (1, 8, 64, 128, 1000)
CELLS_S = (60.0, 600.0, 3600.0)
SLOTS_FILLED = 12
"""Cells that each GPU of a simulated cluster trains."""

NVLINK, INFINIBAND, ETHERNET = 450e9, 50e9, 12.5e9 / GPUS_OF_A_NODE
"""Bytes/s each way for a GPU: NVLink 4 in an H100 node, a 400 Gb/s adapter for each GPU, 100 Gb/s for a node of eight.
Specifications, not measurements."""

HOP_S = 5e-6
"""Assumed for a message between two neighbours of a ring."""

RESNET50 = {"parameters": 25_557_032, "images_per_s": 5_000.0, "batch": 256, "jpeg_bytes": 110e3}
"""Images/s of an H200 with everything right: an estimate between published results; batch for each GPU."""

DECODED_PER_CORE = 605.0
"""Images/s of photographs of full size on a core, as `loading` measured on the machine of results/benchmarks."""

START_S = 0.4
"""Between a free GPU and the next cell's first step where an actor is reused: its data and network."""


def run(smoke: bool) -> dict[str, Any]:
    n = 3 if smoke else int(os.environ.get("HARNESS_CELLS", "1000"))
    measured = light_cells(n)
    console = Console(width=150)
    console.print(
        f"{n:,} light cells, {FAKE_GPUS} at once on {len(os.sched_getaffinity(0))} cores: {measured['wall_s']:.0f} s, "
        f"{measured['cells_per_s']:.1f} cells/s; driver: {measured['driver_ms']:.0f} ms of processor a cell, "
        f"{measured['driver_mb']:.0f} MB at most; records: {measured['kb_a_cell']:.0f} KB a cell"
    )
    nodes = NODES[:2] if smoke else NODES
    rows = [
        {"nodes": k, "gpus": k * GPUS_OF_A_NODE, "cell_s": cell_s,
         **simulate(k * GPUS_OF_A_NODE, cell_s, measured["driver_ms"] / 1000, START_S)}
        for k in nodes for cell_s in CELLS_S
    ]  # fmt: skip
    table = Table(title="simulated: share of GPU time that trains, by length of a cell", title_justify="left")
    for column in ("nodes of 8", *(f"{s / 60:g} min" for s in CELLS_S), "driver busy at 1 min"):
        table.add_column(column, justify="right")
    for k in nodes:
        of = {row["cell_s"]: row for row in rows if row["nodes"] == k}
        table.add_row(f"{k:,}", *(f"{100 * of[s]['busy']:.1f} %" for s in CELLS_S), f"{100 * of[60.0]['driver']:.0f} %")
    console.print(table)
    limits = [limits_of(n_gpus) for n_gpus in (8, 64, 512)]
    table = Table(title="computed: a ResNet-50 run on ImageNet, ms of a step", title_justify="left")
    for column in limits[0]:
        table.add_column(column.replace("_", " "), justify="right")
    for row in limits:
        table.add_row(*(f"{value:,.1f}" for value in row.values()))
    console.print(table)
    figure = Figure("light cells a second", (measured["cells_per_s"],), note=f"{n:,} cells, driver and trials on here")
    show("scale", [figure])
    return {"cells": measured, "simulated": rows, "computed": limits, "figures": [figure.plain()]}


def light_cells(n: int) -> dict[str, float]:
    """A search of `n` trials of one step each, as a user starts it, on a Ray cluster with fake GPUs, mirror on."""
    base = {
        "model": {"name": "lenet_300_100"}, "data": {"name": "digits", "batch_size": 64}, "optimizer": {"lr": 0.1},
        "method": {"name": "static", "density": 0.1}, "schedule": {"steps": 1}, "engine": {"threads": 1},
        "evaluation": {"every_epochs": 1},
    }  # fmt: skip
    search = {
        "base": "base.yaml", "budget": {"trials": n - 1}, "confirm": {"top": 1, "seeds": 1},
        "space": {"optimizer.lr": {"kind": "float", "low": 0.01, "high": 0.3, "log": True}},
        "sampler": {"name": "random"},
    }  # fmt: skip
    session = mkdtemp(prefix="ray-")
    env = {**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    ray = [str(Path(sys.executable).parent / "ray")]
    start = ["start", "--head", "--port=0", f"--num-cpus={2 * FAKE_GPUS}", f"--num-gpus={FAKE_GPUS}", "--block"]
    head = subprocess.Popen(
        [*ray, *start, f"--temp-dir={session}", "--include-dashboard=false"], env=env, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with TemporaryDirectory() as folder:
            here = Path(folder)
            (here / "base.yaml").write_text(yaml.safe_dump(base))
            (here / "light.yaml").write_text(yaml.safe_dump(search))
            address = answering(Path(session))
            words = ["tune", str(here / "light.yaml"), "--out", str(here), "--address", address]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            driver = subprocess.run([sys.executable, "-m", "harness", *words], env=env, capture_output=True, text=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            if driver.returncode:
                raise RuntimeError(driver.stdout + driver.stderr)
            runs = sorted((here / "studies/light/runs").glob("*"))
            records = [[json.loads(line) for line in (run / "record.jsonl").read_text().splitlines()] for run in runs]
            size = sum(file.stat().st_size for run in runs for file in run.iterdir())
    finally:
        head.terminate()
        head.wait()
    wall = max(r[-1]["time"] for r in records) - min(r[0]["time"] for r in records)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "n": len(runs), "at_once": FAKE_GPUS, "wall_s": wall, "cells_per_s": len(runs) / wall,
        "driver_ms": 1000 * used / len(runs), "driver_mb": after.ru_maxrss / 1024, "kb_a_cell": size / len(runs) / 1024,
    }  # fmt: skip


def answering(session: Path) -> str:
    """The address of the cluster that keeps its files there, once it has one."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for path in session.glob("ray_current_cluster"):
            if address := path.read_text().strip():
                return address
        time.sleep(0.2)
    raise RuntimeError(f"no Ray cluster came up in {session}")


def simulate(n_gpus: int, cell_s: float, driver_s: float, start_s: float) -> dict[str, float]:
    """GPUs that train cells of about one length, each of which takes the one driver's time before it may start.

    Cells differ by up to a tenth in length, evenly spread. Returns the share of all GPU time that trains, of the
    driver's time that is taken, and cells a second, from the first start to the last end.
    """
    free = [0.0] * n_gpus
    heapq.heapify(free)
    driver, end, trained = 0.0, 0.0, 0.0
    n_cells = SLOTS_FILLED * n_gpus
    for number in range(n_cells):
        ready = heapq.heappop(free)
        driver = max(driver, ready) + driver_s
        length = cell_s * (0.9 + 0.2 * ((number * 0.6180339887498949) % 1.0))
        done = driver + start_s + length
        trained += length
        end = max(end, done)
        heapq.heappush(free, done)
    return {"busy": trained / (n_gpus * end), "driver": n_cells * driver_s / end, "cells_per_s": n_cells / end}


def limits_of(n_gpus: int) -> dict[str, float]:
    """Of one run on so many GPUs: milliseconds of a step, and bytes and cores that feeding it takes."""
    gradients = 4 * RESNET50["parameters"]
    on_the_wire = 2 * (n_gpus - 1) / n_gpus * gradients  # a ring's all-reduce, each way, for each GPU
    hops_s = 2 * (n_gpus - 1) * HOP_S
    many = n_gpus > GPUS_OF_A_NODE
    fed = n_gpus * RESNET50["images_per_s"]
    return {
        "gpus": float(n_gpus),
        "step_ms": 1000 * RESNET50["batch"] / RESNET50["images_per_s"],
        "ring_ms_fast": 1000 * (on_the_wire / (INFINIBAND if many else NVLINK) + hops_s),
        "ring_ms_ethernet": 1000 * (on_the_wire / ETHERNET + hops_s) if many else 0.0,
        "read_GB_per_s": fed * RESNET50["jpeg_bytes"] / 1e9,
        "decoding_cores_of_a_node": min(n_gpus, GPUS_OF_A_NODE) * RESNET50["images_per_s"] / DECODED_PER_CORE,
        "global_batch": n_gpus * RESNET50["batch"],
    }
