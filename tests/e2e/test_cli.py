"""The commands as a user runs them, in processes of their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = [
    "train",
    "digits_r34",
    "--set",
    "model.name=lenet_300_100",
    "--set",
    "model.width=null",
    "--set",
    "schedule.epochs=2",
]


def harness(*words: str, env: dict[str, str] | None = None, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *words],
        env={**os.environ, "COLUMNS": "120", **(env or {})}, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def test_help_imports_nothing_heavy() -> None:
    heavy = ["torch", "ray", "mlflow", "deepspeed", "nvidia.dali", "pydantic", "matplotlib"]
    code = f"import sys; import harness.cli; sys.exit(repr([m for m in {heavy} if m in sys.modules]))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stderr.strip() == "[]"
    listed = harness("--help")
    assert listed.returncode == 0
    for command in ("train", "bench", "board", "ui", "doctor", "recipes", "methods", "models", "data"):
        assert command in listed.stdout


def test_the_table_of_methods_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "methods.md"
    assert harness("methods", "--markdown").stdout == page.read_text(), "harness methods --markdown > docs/methods.md"


@pytest.mark.parametrize("command", ["recipes", "methods", "models", "data"])
def test_lists_speak_json(command: str) -> None:
    found = harness(command, "--json")
    assert found.returncode == 0, found.stderr
    names = {row["name"] for row in json.loads(found.stdout)}
    expected = {"recipes": "demo", "methods": "east", "models": "resnet34", "data": "cifar10"}[command]
    assert expected in names


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "digits_r35"], "unknown recipe 'digits_r35'; did you mean 'digits_r34'?"),
        (["train", "demo"], "'demo' is a suite of several runs: harness bench demo"),
        (["train", "digits_r34", "--set", "method.name=rigel"], "unknown method 'rigel'; did you mean 'rigl'?"),
        (["train", "digits_r34_east", "--set", "method.density=99.9"], "99.9 % sparse is 0.001"),
        (["train", "digits_r34_east", "--set", "method.density=1e-6"], "is below one weight for each of 21 layers"),
        (["train", "digits_r34", "--device", "cuda"], "a GPU was asked for"),
        (["train", "cifar10_r34_smoke"], "give --data-root DIR or set HARNESS_DATA"),
        (["train", "cifar10_r34_smoke", "--data-root", "/no/such"], "/no/such is not a folder"),
        (["train", "digits_r34", "--out", "/proc/runs"], "cannot write to /proc/runs"),
        (["bench", "demo", "--seeds", "a-b"], "--seeds needs numbers"),
        (["board"], "no results in"),
        (["ui"], "no tracking data in"),
    ],
)
def test_bad_input_is_one_clear_error_and_leaves_nothing(tmp_path: Path, words: list[str], expected: str) -> None:
    out = [] if "--out" in words else ["--out", str(tmp_path / "runs")]
    found = harness(*words, *out, env={"CUDA_VISIBLE_DEVICES": ""})
    assert found.returncode == 2, found.stdout + found.stderr
    assert expected in found.stderr
    assert "Traceback" not in found.stderr
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_unknown_options_are_usage_errors() -> None:
    assert harness("train", "digits_r34", "--sead", "1").returncode == 2
    assert harness("tarin").returncode == 2


def test_a_tracking_server_that_does_not_answer_costs_nothing(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    words = [*SMALL, "--out", str(out)]
    found = harness(*words, "--tracking", "http://127.0.0.1:9")
    assert found.returncode == 0, found.stderr
    assert "does not answer" in found.stderr
    assert "harness sync" in found.stderr
    assert len(list(out.glob("*/result.json"))) == 1
    sent = harness("sync", "--out", str(out))
    assert sent.returncode == 0, sent.stderr
    assert "1 runs are in sqlite:" in sent.stdout


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = harness("ui", "--out", str(tmp_path), "--tracking", f"sqlite:///{tmp_path}/m.db", "--port", str(port))
    assert found.returncode == 2
    assert f"port {port} cannot be had (Address already in use): give another --port" in found.stderr


def test_doctor_reports_this_machine(tmp_path: Path) -> None:
    found = harness("doctor", "--json", "--out", str(tmp_path))
    findings = {f["what"]: f for f in json.loads(found.stdout)}
    assert findings["torch"]["state"] in ("ok", "warning")
    assert findings["digits"]["found"].startswith("1,797")
    assert findings["free disk for runs"]["state"] in ("ok", "warning")
    missing = [f for f in findings.values() if f["state"] == "missing"]
    assert found.returncode == (3 if missing else 0)
    assert missing == []


def test_doctor_counts_real_data(real_data: Path, tmp_path: Path) -> None:
    found = harness("doctor", "--json", "--out", str(tmp_path), "--data-root", str(real_data))
    findings = {f["what"]: f for f in json.loads(found.stdout)}
    assert findings["cifar10"]["found"] == "45,000 train, 5,000 validation, 10,000 test"
    assert findings["imagefolder imagenette"]["found"] == "10 classes, 2,000 training images"


@pytest.mark.slow
def test_the_mlflow_ui_shows_the_runs(tmp_path: Path) -> None:
    """A real server on a real database, asked over HTTP."""
    import urllib.request

    from tests.distributed.processes import free_port

    out, port = tmp_path / "runs", free_port()
    words = [*SMALL, "--out", str(out)]
    assert harness(*words).returncode == 0
    server = subprocess.Popen(
        [sys.executable, "-m", "harness", "ui", "--out", str(out), "--port", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/search",
            data=json.dumps({"experiment_ids": ["1"]}).encode(), headers={"Content-Type": "application/json"},
        )  # fmt: skip
        deadline, answer = time.monotonic() + 90, None
        while answer is None:
            assert server.poll() is None, server.communicate()[0]
            assert time.monotonic() < deadline, "the server did not come up"
            try:
                answer = json.loads(urllib.request.urlopen(request, timeout=5).read())
            except OSError:
                time.sleep(0.5)
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)
    kinds = sorted(
        tag["value"] for run in answer["runs"] for tag in run["data"]["tags"] if tag["key"] == "harness.kind"
    )
    assert kinds == ["curve", "index", "run"]
