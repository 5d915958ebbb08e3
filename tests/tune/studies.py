"""Small searches, and a stand-in for training where the study alone is tested: it writes what a run would have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from harness.track.record import Record, facts_of, write_result
from harness.tune.search import Search, load_search
from harness.tune.study import Proposal, Study

BASE = {
    "model": {"name": "lenet_300_100"},
    "data": {"name": "digits", "batch_size": 128},
    "method": {"name": "rigl", "density": 0.1, "interval": 5},
    "optimizer": {"lr": 0.3},
    "schedule": {"epochs": 4},
    "engine": {"device": "cpu"},
    "tracking": {"uri": "none"},
}
SPACE = {
    "optimizer.lr": {"kind": "float", "low": 0.01, "high": 1.0, "log": True},
    "method.drop_fraction": {"kind": "float", "low": 0.1, "high": 0.6},
}


def write_search(folder: Path, name: str = "small", recipe: dict[str, Any] | None = None, **entries: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base.yaml").write_text(yaml.safe_dump(recipe or BASE, sort_keys=False))
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"base": "base.yaml", "space": SPACE, **entries}, sort_keys=False))
    return path


def small_search(folder: Path, **entries: Any) -> Search:
    return load_search(str(write_search(folder, **entries)))[0]


def pretend(study: Study, proposal: Proposal, value: float, steps: int = 40, **facts: Any) -> None:
    """The record and result of a run that ended with this validation accuracy."""
    for cell in proposal.cells:
        run_dir = study.runs / cell.run_id
        begin(run_dir)
        reach(run_dir, {steps: value}, steps)
        result = {"val_accuracy_last": value, "density": 0.1, "train_flops": 1e9, "train_seconds": 2.0, **facts}
        write_result(run_dir, {**facts_of(cell.config, cell.seed), "status": "done", **result})


def made_up(run_dir: Path) -> dict[str, Any]:
    """What every result says of a run, of one that never was."""
    facts = {"schema": 2, "fingerprint": run_dir.name.split("-")[0], "method": "static", "model": "lenet_300_100"}
    return {**facts, "run_id": run_dir.name, "data": "digits", "seed": 0, "density": 0.1}


def begin(run_dir: Path) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    Record(run_dir).append("start", **made_up(run_dir))


def reach(run_dir: Path, accuracies: dict[int, float], total_steps: int) -> None:
    for step, value in accuracies.items():
        Record(run_dir).append(
            "evaluation", step=step, total_steps=total_steps, val_accuracy=value, seconds=1.0, train_flops=1e6
        )
