"""From `harness train` at the prompt to the first step: processes of their own, as a user starts them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.figures import Figure, show

RECIPE = "digits_r34_east"


def run(smoke: bool) -> dict[str, Any]:
    """Up to the first evaluation of a run of one step, so a little more than what is told."""
    seconds = [start() for _ in range(1 if smoke else 5)]
    figures = [Figure("seconds from the command to the first step", tuple(seconds), 6, 4, note=RECIPE)]
    show("start", figures)
    return {"figures": [figure.plain() for figure in figures]}


def start() -> float:
    with TemporaryDirectory() as folder:
        words = ["train", RECIPE, "--out", folder, "--set", "schedule.epochs=null", "--set", "schedule.steps=1"]
        words += ["--set", "method.dyrelu=null", "--set", "method.cyclic=null", "--device", "cpu"]
        began = time.time()
        subprocess.run([sys.executable, "-m", "harness", *words], check=True, capture_output=True)
        (record,) = Path(folder).glob("*/record.jsonl")
        first = next(e for e in map(json.loads, record.read_text().splitlines()) if e["event"] == "evaluation")
        return float(first["time"]) - began
