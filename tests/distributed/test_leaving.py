from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.distributed.processes import run_fresh_ranks

pytestmark = pytest.mark.slow


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
@pytest.mark.parametrize("engine", [{}, {"name": "deepspeed", "zero_stage": 1}], ids=["torch", "deepspeed"])
def test_no_thread_of_the_group_outlives_it(
    engine: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does may meet an interpreter that is gone, and aborts the process after all its work is done.

    Nor does a start compile an extension: DeepSpeed would, for a minute.
    """
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    for code, output in run_fresh_ranks(2, "tests.distributed.leaving", json.dumps(engine)):
        assert code == 0, output[-2000:]
        assert "met as gloo" in output
        assert output.split("left with")[1].split() == []
    assert not list(tmp_path.iterdir())
