"""The method of docs/adding_a_method.md, taken from the page as it stands."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parent.parent.parent / "docs" / "adding_a_method.md"


def test_the_worked_example_trains(tmp_path: Path) -> None:
    text = PAGE.read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (command,) = re.findall(r"```\n(harness train .*?)\n```", text)
    (tmp_path / "noisy_rigl.py").write_text(code)
    shorter = ["--set", "schedule.epochs=2", "--set", "method.interval=5", "--set", "model.name=lenet_300_100",
               "--set", "model.width=null"]  # fmt: skip
    words = [*shlex.split(command)[1:], *shorter, "--out", str(tmp_path / "runs"), "--tracking", "none", "--json"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    found = subprocess.run([sys.executable, "-m", "harness", *words], capture_output=True, text=True, env=env)
    assert found.returncode == 0, found.stderr
    (result,) = json.loads(found.stdout)["results"]
    assert result["method"] == "noisy_rigl:NoisyRigL"
    assert result["n_active"] == round(0.02 * result["n_weights"])


def test_a_path_that_cannot_be_imported(tmp_path: Path) -> None:
    words = ["train", "digits_r34", "--set", "method.name=nowhere:Nothing", "--out", str(tmp_path)]
    found = subprocess.run([sys.executable, "-m", "harness", *words], capture_output=True, text=True)
    assert found.returncode == 2
    assert "method 'nowhere:Nothing' cannot be imported: No module named 'nowhere'" in found.stderr
