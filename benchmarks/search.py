"""The cost of searching beside training: asking and telling as a study grows, and trials beyond their training."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure
from harness.track.record import facts_of, write_result
from harness.tune.samplers import sampler_for
from harness.tune.search import load_search, with_budget
from harness.tune.study import Study, owned_study


def run(smoke: bool) -> dict[str, Any]:
    sizes = (10, 30) if smoke else (10, 100, 1_000, 10_000)
    asks = {n: ask_and_tell(n, repeats=3 if smoke else 10) for n in sizes}
    overhead = trial_overhead(n_trials=2 if smoke else 24)
    console = Console()
    table = Table(title="ask and tell, TPE over the 8 parameters of east_cycles", title_justify="left")
    for column in ("trials in the study", "ask ms", "tell ms", "Optuna alone: ask", "tell", "ratio of both"):
        table.add_column(column, justify="right")
    for n, found in asks.items():
        ratio = (found["ask_ms"] + found["tell_ms"]) / (found["optuna_ask_ms"] + found["optuna_tell_ms"])
        table.add_row(f"{n:,}", *(f"{value:.1f}" for value in found.values()), f"{ratio:.2f}")
    console.print(table)
    console.print(
        f"{overhead['n_trials']} trials: wall time from the first trial's start to the last one's end over the ideal "
        f"(training time / trials at once): {overhead['ratio']:.2f}, goal 1.2; {overhead['ms_per_trial']:.0f} ms per "
        f"trial beyond training; {overhead['start_s']:.1f} s before the first (Ray, processes)",
        soft_wrap=True,
    )
    figure = Figure(f"{overhead['n_trials']} short trials over ideal wall time", (overhead["ratio"],), 1.2, 1.05)
    return {
        "ask_and_tell": {str(n): found for n, found in asks.items()}, "trials": overhead, "figures": [figure.plain()]
    }  # fmt: skip


def ask_and_tell(n_trials: int, repeats: int) -> dict[str, float]:
    """Milliseconds for the next proposal and for telling its result, with `n_trials` complete; training is left out.

    Beside it Optuna alone, the same sampler and trials in memory, turn by turn.
    """
    (search,) = load_search("east_cycles")
    search = with_budget(replace(search, file=search.file.model_copy(update={"start": ()})), n_trials + repeats, None)
    times: dict[str, list[float]] = {name: [] for name in ("ask_ms", "tell_ms", "optuna_ask_ms", "optuna_tell_ms")}

    def timed(name: str, what: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        out = what()
        times[name].append(1000 * (time.perf_counter() - began))
        return out

    with TemporaryDirectory() as folder, owned_study(Path(folder), search) as study:
        alone = fill(study, n_trials)
        for _ in range(repeats):
            proposal = timed("ask_ms", study.next)
            for cell in proposal.cells:
                result = {"status": "done", "val_accuracy_last": 0.5, "train_flops": 1.0, "train_seconds": 1.0}
                (study.runs / cell.run_id).mkdir(parents=True)
                write_result(study.runs / cell.run_id, {**facts_of(cell.config, cell.seed), **result})
            timed("tell_ms", lambda number=proposal.number: study.finish(number))
            alone.sampler = sampler_for(search, len(alone.trials))
            trial = timed("optuna_ask_ms", lambda: proposed(study, alone))
            timed("optuna_tell_ms", lambda trial=trial: alone.tell(trial, 0.5))
    return {name: median(values) for name, values in times.items()}


def proposed(study: Study, alone: optuna.Study) -> optuna.Trial:
    trial = alone.ask()
    for key, space in study.search.spaces.items():
        space.propose(trial, key, 12.0)
    return trial


def fill(study: Study, n_trials: int) -> optuna.Study:
    """Complete trials with random proposals and values, in the study and in one of Optuna's alone; returns that."""
    alone = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(0))
    for i in range(n_trials):
        alone.tell(proposed(study, alone), float(i % 97) / 97)
    study.optuna.add_trials(alone.get_trials(deepcopy=False))
    return alone


def trial_overhead(n_trials: int) -> dict[str, float]:
    """A search with trials of about a second, through the command as a user gives it."""
    base = {
        "model": {"name": "lenet_300_100"}, "data": {"name": "digits", "batch_size": 64}, "optimizer": {"lr": 0.1},
        "method": {"name": "rigl", "density": 0.1, "interval": 20}, "schedule": {"epochs": 40},
        "engine": {"device": "cpu", "threads": 1}, "evaluation": {"every_epochs": 10}, "tracking": {"uri": "none"},
    }  # fmt: skip
    space = {"optimizer.lr": {"kind": "float", "low": 0.01, "high": 0.3, "log": True}}
    with TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "base.yaml").write_text(yaml.safe_dump(base))
        search = {
            "base": "base.yaml",
            "space": space,
            "budget": {"trials": n_trials},
            "confirm": {"top": 1, "seeds": 1},
        }
        (here / "short.yaml").write_text(yaml.safe_dump(search))
        began = time.time()
        words = ["-m", "harness", "tune", str(here / "short.yaml"), "--out", str(here), "--concurrent", "2"]
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        runs = list((here / "studies/short/runs").glob("*"))
        results = [json.loads((run / "result.json").read_text()) for run in runs]
        starts = [json.loads((run / "record.jsonl").read_text().splitlines()[0])["time"] for run in runs]
        ends = [json.loads((run / "record.jsonl").read_text().splitlines()[-1])["time"] for run in runs]
    trained = sum(r["train_seconds"] for r in results)
    wall = max(ends) - min(starts)
    return {
        "n_trials": len(runs), "train_s": trained, "wall_s": wall, "ratio": wall / (trained / 2),
        "ms_per_trial": 1000 * (2 * wall - trained) / len(runs), "start_s": min(starts) - began,
    }  # fmt: skip
