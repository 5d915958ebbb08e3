from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from harness.train.machine import keep_memory
keep_memory()
def step():
    return [torch.ones(2_000_000) for _ in range(6)]  # 48 MB
step(); step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone can be told")
def test_memory_of_a_step_is_kept_for_the_next() -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", FAULTS]
    found = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert int(found.stdout) < 12_000  # pages of a step's 48 MB


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone can be told")
def test_who_set_malloc_is_left_alone() -> None:
    env = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_THRESHOLD_": "65536"}
    found = subprocess.run([sys.executable, "-c", FAULTS], env=env, capture_output=True, text=True, check=True)
    assert int(found.stdout) > 10_000
