"""Run by each of two processes: every method whole in one folder, and stopped and continued in another."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch

from harness.errors import Interrupted
from harness.train.run import execute
from tests.resume.test_methods import METHODS, config_of
from tests.resume.test_stop import StopAfter

ZERO_1 = {"name": "deepspeed", "zero_stage": 1, "workers": 2}


def main() -> None:
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    for name, method in METHODS.items():
        config = config_of(method, {"lr": 0.1}, ZERO_1)
        list(execute(config, 0, out / "whole" / name))
        # ranks ask one another every tenth step: of forty it stops at 10 and 30; lottery tickets at the end of the
        # first round, soon after it, and in the third
        for n in (4, 1, 3) if method["name"] == "imp" else (1, 2):
            with suppress(Interrupted):
                list(execute(config, 0, out / "parts" / name, StopAfter(n)))
                print("NOT STOPPED", name, n)
        list(execute(config, 0, out / "parts" / name))


if __name__ == "__main__":
    main()
