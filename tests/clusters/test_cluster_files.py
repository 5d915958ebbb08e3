from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import mkdtemp

import pytest
import yaml

from clusters.submit import arguments
from tests.distributed.processes import free_port

ROOT = Path(__file__).parent.parent.parent


def test_ray_accepts_the_cluster_file() -> None:
    """Ray's own schema and bootstrap, as `ray up` uses them before it reaches for a machine."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "ray_config.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["available_node_types"], "the provider's nodes are known"
    assert any("make setup" in command for command in config["setup_commands"])


def test_a_misspelt_key_would_be_refused() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "ray_config.yaml").read_text())
    with pytest.raises(Exception, match="max_wrkers"):
        validate_config(prepare_config({**config, "max_wrkers": 2}))


def test_submit_attaches_to_the_cluster_it_runs_on() -> None:
    assert arguments(["bench", "demo"]) == ["bench", "demo", "--address", "auto"]
    assert arguments(["bench", "demo", "--address", "local"]) == ["bench", "demo", "--address", "local"]
    assert arguments(["bench", "demo", "--address=local"]) == ["bench", "demo", "--address=local"]
    assert arguments(["tune", "east_imagenet"]) == ["tune", "east_imagenet", "--address", "auto"]
    assert arguments(["board"]) == ["board"]


@pytest.mark.slow
def test_the_head_asks_for_the_token(tmp_path: Path) -> None:
    """The cluster file's own command starts a head; who has no token is told so, who has it gets in."""
    config = yaml.safe_load((ROOT / "ray_config.yaml").read_text())
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert all("RAY_AUTH_MODE=token PATH=" in command for command in commands if "ray start" in command)
    port, short = free_port(), mkdtemp(prefix="ray-")  # Ray's sockets lie there, and their paths must be short
    start = config["head_start_ray_commands"][-1].replace("--port=6379", f"--port={port}")
    start = re.sub(r" --autoscaling-config=\S+", f" --include-dashboard=false --temp-dir={short} --block", start)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    inside = {**os.environ, "HOME": str(tmp_path / "inside"), "PATH": path}
    outside = {**inside, "HOME": str(tmp_path / "outside")}
    for env in (inside, outside):
        Path(env["HOME"]).mkdir()
    subprocess.run(["ray", "get-auth-token", "--generate"], env=inside, check=True, capture_output=True)

    def bench(env: dict[str, str]) -> str:
        words = [*shlex.split("-m harness bench digits_r34 --workers 64 --tracking none"), "--out", str(tmp_path)]
        words += ["--address", f"127.0.0.1:{port}"]
        done = subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True, timeout=200)
        assert done.returncode == 2, done.stderr
        return done.stderr.splitlines()[-1]

    head = subprocess.Popen(
        ["bash", "-c", start], env=inside, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        until = time.monotonic() + 120
        while subprocess.run(
            ["ray", "status", "--address", f"127.0.0.1:{port}"],
            env={**inside, "RAY_AUTH_MODE": "token"},
            capture_output=True,
        ).returncode:
            assert time.monotonic() < until
        assert "copy ~/.ray/auth_token from its head node" in bench(outside)
        assert "asks for a token" in bench({**outside, "RAY_AUTH_MODE": "token"})
        assert "a run needs 64 workers" in bench({**inside, "RAY_AUTH_MODE": "token"})
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(short, ignore_errors=True)
