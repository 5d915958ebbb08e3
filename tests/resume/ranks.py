"""Run by each process of the test of resuming on several: trains a recipe, and is killed by itself where told."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
import yaml

from harness.config import build_config
from harness.train.run import execute


def main() -> None:
    recipe, engine, out, last = sys.argv[1:]
    torch.set_num_threads(1)
    settings = yaml.safe_load(Path(recipe).read_text())
    settings["engine"] = {"device": "cpu", **json.loads(engine)}
    for event in execute(build_config(settings, recipe), 4, Path(out)):
        if event.get("step") == int(last):
            # the evaluation of this step is on record and its checkpoint is not: the run falls back behind it
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
