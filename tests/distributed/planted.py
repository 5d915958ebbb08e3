"""Run by two processes: rank 1 flips one mask position after an update; every rank must stop and name the layer."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.config import build_config
from harness.data.batches import Share
from harness.errors import CheckFailed
from harness.train.checks import check_agreement
from harness.train.evaluate import evaluate
from harness.train.job import build_job
from tests.distributed.steps import COMPARISONS, config_for


def main() -> None:
    job = build_job(
        build_config(config_for(COMPARISONS["methods"], "static", {"workers": 2}), "planted"), 0, Path("unused")
    )
    check_agreement(job.engine, 7)
    if sys.argv[1] == "mask":
        if job.engine.ranks.rank == 1:
            mask = job.engine.mask("classifier")
            mask.view(-1)[5] = ~mask.view(-1)[5]
        try:
            check_agreement(job.engine, 8)
        except CheckFailed as error:
            print(f"caught: {error}")
    else:
        first = evaluate(job.engine, job.loader, "test")  # 299 images do not divide by two
        print(f"counted {first.accuracy * 299:.4f}")
        job.loader.share = Share(0, 1)  # type: ignore[attr-defined]  # both ranks now take every image
        try:
            evaluate(job.engine, job.loader, "test")
        except CheckFailed as error:
            print(f"caught: {error}")


if __name__ == "__main__":
    main()
