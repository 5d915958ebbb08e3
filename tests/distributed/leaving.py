"""Run by two processes: evaluates on an engine, leaves the group, and tells which of its threads are still there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from harness.config import build_config
from harness.train import ranks
from harness.train.evaluate import evaluate
from harness.train.job import build_job
from tests.distributed.steps import COMPARISONS, config_for


def work(engine: str) -> None:
    config = config_for(COMPARISONS["methods"], "static", {"workers": 2, **json.loads(engine)})
    job = build_job(build_config(config, "leaving"), seed=0, run_dir=Path("unused"))
    evaluate(job.engine, job.loader, "test")
    job.engine.close()


def main() -> None:
    work(sys.argv[1])
    print("met as", *threads())
    ranks.leave()
    print("left with", *threads())


def threads() -> list[str]:
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return sorted(name for name in names if "gloo" in name or "tcpstore" in name)


if __name__ == "__main__":
    main()
