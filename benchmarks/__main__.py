"""python -m benchmarks NAME [--smoke] [--json FILE]"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from harness.train.run import device_name, git_commit, versions

NAMES = ("search", "board", "agreement")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--smoke", action="store_true", help="smallest sizes: does it run, not how fast")
    parser.add_argument("--json", type=Path, help="also write the figures here, with device and versions")
    given = parser.parse_args()
    figures = importlib.import_module(f"benchmarks.{given.name}").run(smoke=given.smoke)
    if given.json:
        import torch

        about = {
            "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
            "device": device_name(torch.device("cpu")),
        }
        about |= {"versions": versions(), "git_commit": git_commit()}
        given.json.write_text(json.dumps({**about, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
