"""What is said of a cluster's nodes; that they are asked rightly is tested on real ones, tests/clusters/test_hosts.py.

Nodes with GPUs are made up here: no machine of these tests has one.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from harness.config import build_config
from harness.config.recipes import Cell
from harness.errors import HarnessError
from harness.tune.cluster import check_fits, may_start
from harness.tune.nodes import Node, doubts, faults
from harness.tune.workers import placement

SOFTWARE, RUNS = "sparsity-harness 0.1.0, torch 2.15.0, code 12345678", Path("/shared/runs")
GOOD = Node(
    "gpu1", "10.0.0.2", trains=True, software=SOFTWARE, gpus=("NVIDIA H100",) * 2, nccl="2.28.3", sees_runs=True,
    data={"imagenet": "/shared/data/imagenet"}, disk_gib=900.0, shared_gib=60.0, files=65536,
)  # fmt: skip
HEAD = replace(GOOD, name="head", address="10.0.0.1", trains=False, gpus=(), nccl="")


def test_good_nodes_are_no_news() -> None:
    assert not list(faults([HEAD, GOOD], SOFTWARE, RUNS))
    assert not list(doubts([HEAD, GOOD]))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"software": "torch 2.11.0, code 87654321"}, "has torch 2.11.0, code 87654321; here: sparsity-harness 0.1.0"),
        ({"sees_runs": False}, "does not see /shared/runs as it is here: --out must lie on storage that all nodes"),
        ({"data": {"mnist": "data root /data is not a folder"}, "lacks": ("mnist",)},
         "has no data for mnist: data root /data is not a folder"),
        ({"unreachable": ("10.0.0.1",)}, r"cannot open a connection to head \(10.0.0.1\): its ports must be open"),
        ({"fault": "ModuleNotFoundError: No module named 'harness'"}, "cannot run the harness: ModuleNotFoundError"),
    ],
)  # fmt: skip
def test_what_would_stop_a_run_is_one_line(wrong: dict[str, object], said: str) -> None:
    (line,) = faults([HEAD, replace(GOOD, **wrong)], SOFTWARE, RUNS)  # type: ignore[arg-type]
    assert line.startswith("node gpu1 (10.0.0.2) ")
    assert re.search(said, line)


def test_a_head_that_trains_nothing_needs_no_data() -> None:
    assert not list(faults([replace(HEAD, lacks=("mnist",)), GOOD], SOFTWARE, RUNS))


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"clock_s": 3600.0}, "its clock is 3,600 s ahead of this one's"),
        ({"clock_s": -60.0}, "its clock is 60 s behind this one's"),
        ({"disk_gib": 0.4}, "0.4 GiB left for runs"),
        ({"shared_gib": 0.1}, "0.1 GiB of shared memory; containers: --shm-size=8g"),
        ({"files": 1024}, "1024 open files at most: ulimit -n 65536"),
        ({"gpus": ("NVIDIA H100", "NVIDIA A100")}, "GPUs of 2 kinds (NVIDIA A100, NVIDIA H100)"),
    ],
)
def test_what_may_hurt_is_one_line(odd: dict[str, object], said: str) -> None:
    (line,) = doubts([HEAD, replace(GOOD, **odd)])  # type: ignore[arg-type]
    assert said in line


def test_workers_share_a_node_where_one_holds_them_all() -> None:
    small, large = {"CPU": 16.0, "GPU": 2.0}, {"CPU": 96.0, "GPU": 8.0}
    assert placement(2, [small], gpu=True) == "STRICT_PACK"
    assert placement(8, [small, large], gpu=True) == "STRICT_PACK"
    assert placement(8, [small, small], gpu=True) == "PACK"
    assert placement(8, [{"CPU": 4.0, "GPU": 8.0}], gpu=True) == "PACK", "each worker needs a CPU too"
    assert placement(8, [small], gpu=False) == "STRICT_PACK"


def test_nodes_that_may_come_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_MAY_START", "[{max_workers: 4, resources: {CPU: 16, GPU: 1}}]")
    assert may_start() == [{"max_workers": 4, "resources": {"CPU": 16, "GPU": 1}}]
    monkeypatch.setenv("HARNESS_MAY_START", "GPU=4")
    with pytest.raises(HarnessError, match="HARNESS_MAY_START is 'GPU=4', expected a list like"):
        may_start()


def test_a_run_that_can_never_be_scheduled_says_what_would_fit() -> None:
    sections = {"model": {"name": "resnet34"}, "data": {"name": "digits"}, "schedule": {"epochs": 1}}
    cell = Cell(build_config({**sections, "engine": {"workers": 8}}, "cell"), 0)
    with pytest.raises(
        HarnessError, match="needs 8 workers with one GPU each, the cluster has 4 GPUs: --workers 4 wou"
    ):
        check_fits([cell], {"CPU": 64.0, "GPU": 4.0})
    with pytest.raises(HarnessError, match="the cluster has 0 CPUs: start a node that offers some"):
        check_fits([cell], {})
