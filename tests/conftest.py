from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side, on networks too small for more
# Ray's workers step back for every other process, and would wait for the tests beside theirs
os.environ.setdefault("RAY_worker_niceness", "0")

from pathlib import Path

import pytest
from hypothesis import settings

# a shared machine may pause anywhere: an example has no deadline, the test has
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, and the slowest before all: the short ones fill what is left of either process."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, item.path.name not in ("test_tune.py", "test_hosts.py")))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with cifar10, mnist and imagenette; HARNESS_TEST_DATA names it."""
    root = os.environ.get("HARNESS_TEST_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("needs real data: set HARNESS_TEST_DATA to a folder with cifar10/, mnist/ and imagenette/")
    return Path(root)


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HARNESS_OUT", "HARNESS_DATA"):
        monkeypatch.delenv(name, raising=False)
