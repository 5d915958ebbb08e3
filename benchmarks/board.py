"""The leaderboard over 20,000 runs on a tracking server: time, memory and size of the page; beside it the server's own
search over the same runs."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from rich.console import Console

from harness.board.claims import load_claims
from harness.track.mirror import KIND_TAG, RUN_TAG, Mirror, default_uri

GOALS = {"board_s": 10.0, "board_mb": 1000.0, "page_mb": 5.0}
METHODS = ("dense", "static", "set", "rigl", "east", "dst", "snfs", "dsr", "deepr", "mest", "granet", "srigl", "snip",
           "grasp", "synflow", "force", "prospr", "gmp", "imp", "str")  # fmt: skip
N_PARAMS, N_METRICS = 80, 25
"""Of a run, as the mirror sends them."""


def run(smoke: bool) -> dict[str, Any]:
    n_tables, n_seeds, densities = (2, 2, (0.1, 0.01)) if smoke else (20, 5, tuple(0.5 / 2**i for i in range(10)))
    with TemporaryDirectory() as folder:
        root = Path(folder)
        results = list(made_results(n_tables, densities, n_seeds))
        fill_server(root, results)
        figures: dict[str, Any] = {"n_runs": len(results)}
        uri = default_uri(root)
        figures["board_s"], figures["board_mb"] = timed("board", "--tracking", uri, "--out", folder)
        site = root / "site"
        figures["html_s"], figures["html_mb"] = timed("board", "--tracking", uri, "--out", folder, "--html", str(site))
        sizes = {name: (site / name).stat().st_size / 1e6 for name in ("index.html", "charts.js")}
        figures |= {"index_mb": sizes["index.html"], "page_mb": sum(sizes.values())}
        figures["search_s"] = own_search(uri)
    figures["search_over_board"] = figures["search_s"] / figures["board_s"]
    Console().print(
        f"{figures['n_runs']:,} runs: board {figures['board_s']:.1f} s (goal {GOALS['board_s']:g}), "
        f"{figures['board_mb']:.0f} MB (goal {GOALS['board_mb']:g}); with the page {figures['html_s']:.1f} s; the page "
        f"{figures['page_mb']:.2f} MB (goal {GOALS['page_mb']:g}); MLflow's own search over the runs "
        f"{figures['search_s']:.1f} s, {figures['search_over_board']:.1f} times the board",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    return {**figures, "goals": GOALS}


def made_results(n_tables: int, densities: tuple[float, ...], n_seeds: int) -> Iterator[dict[str, Any]]:
    claimed = sorted({(c.data, c.model) for c in load_claims()})
    chance = random.Random(0)
    for t in range(n_tables):
        data, model = claimed[t % len(claimed)]
        for method in METHODS:
            for density in densities:
                for seed in range(n_seeds):
                    n_active = round(density * 1e6)
                    fingerprint = f"{abs(hash((t, method, density))):010x}"[:10]
                    yield {
                        "schema": 2, "run_id": f"{fingerprint}-{seed}", "fingerprint": fingerprint, "status": "done",
                        "setting": f"{t:010x}", "setting_label": f"{t} epochs of sgd, lr 0.1 (cosine), batch 128",
                        "data": data, "model": model, "method": method, "seed": seed, "density": density,
                        "n_weights": 10**6, "n_exempt_weights": 0, "n_active": n_active, "n_nonzero": n_active - seed,
                        "n_train": 45_000, "n_test": 10_000, "n_classes": 10, "emergent": False, "remarks": [],
                        "test_accuracy_last": 0.9 + 0.01 * chance.random() + 0.01 * len(method) * density,
                        "train_flops": 1e15, "inference_macs": 1e6, "train_seconds": 100.0, "device": "made up",
                        "versions": {"python": "3.11", "torch": "2.15"}, "git_commit": "0" * 40,
                    }  # fmt: skip


def fill_server(root: Path, results: list[dict[str, Any]]) -> None:
    """Through the harness the index; straight into the database what would take an hour through MLflow's client."""
    mirror = Mirror(default_uri(root), "sparsity-harness", root)
    mirror.connect()
    mirror.index.add(*results)
    now = int(time.time() * 1000)
    with sqlite3.connect(root / "mlflow.db") as held:
        for table, rows in rows_of(results, mirror.experiment_id, now).items():
            marks = ", ".join("?" * len(rows[0]))
            held.executemany(f"insert into {table} values ({marks})", rows)


def rows_of(results: list[dict[str, Any]], experiment: str, now: int) -> dict[str, list[tuple[Any, ...]]]:
    ids = [f"{i:032x}" for i in range(len(results))]
    runs = "runs (run_uuid, name, user_id, status, start_time, end_time, lifecycle_stage, artifact_uri, experiment_id)"
    pairs = list(zip(ids, results, strict=True))
    return {
        runs: [
            (i, r["run_id"], "x", "FINISHED", now, now, "active", "", int(experiment)) for i, r in pairs
        ],
        "tags (run_uuid, key, value)": [
            (i, key, value)
            for i, r in pairs
            for key, value in ((RUN_TAG, r["run_id"]), (KIND_TAG, "run"), *((k, str(r[k])) for k in ("method", "seed")))
        ],
        "params (run_uuid, key, value)": [(i, f"section.key_{k}", "value") for i in ids for k in range(N_PARAMS)],
        "latest_metrics (run_uuid, key, value, timestamp, step, is_nan)": [
            (i, f"metric_{k}", 0.5, now, 1, 0) for i in ids for k in range(N_METRICS)
        ],
    }  # fmt: skip


def timed(*words: str) -> tuple[float, float]:
    """Seconds and peak MB of one command in a process of its own."""
    began, peak = time.perf_counter(), 0
    started = psutil.Popen([sys.executable, "-m", "harness", *words], stdout=subprocess.DEVNULL)
    while started.poll() is None:
        with suppress(psutil.NoSuchProcess):
            peak = max(peak, started.memory_info().rss)
        time.sleep(0.02)
    if started.returncode:
        raise RuntimeError(f"harness {' '.join(words)} failed")
    return time.perf_counter() - began, peak / 1e6


def own_search(uri: str) -> float:
    from mlflow.tracking import MlflowClient

    client, token, began = MlflowClient(uri), None, time.perf_counter()
    experiment = client.get_experiment_by_name("sparsity-harness").experiment_id
    while True:
        page = client.search_runs([experiment], f"tags.`{KIND_TAG}` = 'run'", max_results=1000, page_token=token)
        token = page.token
        if not token:
            return time.perf_counter() - began
