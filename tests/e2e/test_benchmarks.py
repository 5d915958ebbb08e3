"""Benchmarks at their smallest sizes: that they run and what they leave, not how fast. The suite times nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import NAMES

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_smoke(name: str, tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    words = [sys.executable, "-m", "benchmarks", name, "--smoke", "--json", str(path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    written = json.loads(path.read_text())
    assert written["command"].startswith(f"python -m benchmarks {name} --smoke")
    assert written["device"]
    assert written["figures"]
