"""python -m benchmarks NAME [NAME ...] [--smoke] [--json FOLDER]; 'all' is every one but gpu."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import HarnessError
from harness.train.machine import device_name, git_commit, versions

NAMES = (
    "steps", "selection", "east", "engines", "loading", "tracking", "start", "search", "growth", "board", "agreement",
    "scale", "gpu",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="+", choices=[*NAMES, "all"], metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--smoke", action="store_true", help="smallest sizes: does it run, not how fast")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="also write figures there, and of what device")
    given = parser.parse_args()
    names = [n for n in NAMES if n != "gpu"] if "all" in given.names else given.names
    if len(names) > 1:  # each in a process of its own: threads and memory are as one leaves them
        options = ["--smoke"] * given.smoke + (["--json", str(given.json)] if given.json else [])
        codes = [subprocess.run([sys.executable, "-m", "benchmarks", name, *options]).returncode for name in names]
        raise SystemExit(max(codes))
    (name,) = names
    try:
        figures = importlib.import_module(f"benchmarks.{name}").run(smoke=given.smoke)
    except HarnessError as error:
        raise SystemExit(f"benchmarks: {error}") from None
    if given.json:
        write(given.json, name, given.smoke, figures)


def write(folder: Path, name: str, smoke: bool, figures: dict[str, object]) -> None:
    import torch

    about = {
        "command": f"python -m benchmarks {name}" + (" --smoke" if smoke else ""),
        "date": datetime.now(UTC).date().isoformat(),
        "device": device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "threads": torch.get_num_threads(), "versions": versions(), "git_commit": git_commit(),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({**about, "figures": figures}, indent=1) + "\n")
    if name == "growth":
        from benchmarks.growth import draw

        draw(figures, folder / "growth.png", folder / "search.json")


if __name__ == "__main__":
    main()
