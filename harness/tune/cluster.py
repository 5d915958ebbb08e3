"""Connecting to Ray, and what there is to run on."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from harness.config import Cell
from harness.errors import HarnessError

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` leaves the cluster's description on its head."""

TOKEN_HINT = "copy ~/.ray/auth_token from its head node to here, and set RAY_AUTH_MODE=token"


@contextmanager
def connected(address: str) -> Iterator[dict[str, float]]:
    """A Ray cluster's resources: 'local' starts one of this machine's own, anything else attaches to one that runs."""
    os.environ.update(QUIET)
    import ray
    from ray.exceptions import AuthenticationError

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    if ray.is_initialized():
        yield offered()
        return
    if address == "local":
        ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, **quiet)
    else:
        try:
            _knock(address)
            ray.init(address=address, **quiet)
        except AuthenticationError:
            raise HarnessError(f"the Ray cluster at '{address}' asks for a token: {TOKEN_HINT}") from None
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            if "ersion mismatch" in str(error):
                raise HarnessError(
                    f"the Ray cluster at '{address}' is of another version: {' '.join(str(error).split())}; "
                    "install the same on all nodes (make setup, constraints.txt) and restart Ray"
                ) from None
            raise HarnessError(
                f"no Ray cluster answers at '{address}' ({reason}): start one, or use --address local; if one is there "
                f"and asks for a token: {TOKEN_HINT}"
            ) from None
    try:
        yield offered()
    finally:
        ray.shutdown()


def offered() -> dict[str, float]:
    """All that the nodes of this cluster have for runs, those that it may still start included."""
    total: dict[str, float] = {}
    for node in node_shapes():
        for kind in ("CPU", "GPU"):
            total[kind] = total.get(kind, 0) + node.get(kind, 0)
    return total


def node_shapes() -> list[dict[str, float]]:
    """Resources of each living node, and of those that the autoscaler may start.

    The latter are in what `ray up` leaves on its head; elsewhere HARNESS_MAY_START says them, in YAML, as in
    `[{max_workers: 4, resources: {CPU: 16, GPU: 1}}]`.
    """
    import ray

    living = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    promised = [
        {name: float(n) for name, n in kind.get("resources", {}).items()}
        for kind in may_start()
        for _ in range(int(kind.get("max_workers", 0)))
    ]
    for node in living:  # those that have been started are not to come once more
        same = [p for p in promised if all(node.get(name, 0) == p.get(name, 0) for name in ("CPU", "GPU"))]
        if same:
            promised.remove(same[0])
    return living + promised


def may_start() -> list[dict[str, Any]]:
    said, path = os.environ.get("HARNESS_MAY_START"), BOOTSTRAP.expanduser()
    if said is not None:
        try:
            kinds = [dict(kind) for kind in yaml.safe_load(said)]
        except (yaml.YAMLError, TypeError, ValueError):
            raise HarnessError(
                f"HARNESS_MAY_START is '{said}', expected a list like [{{max_workers: 4, resources: {{CPU: 16}}}}]"
            ) from None
        return kinds
    return list(yaml.safe_load(path.read_text()).get("available_node_types", {}).values()) if path.exists() else []


class LeaveRequest:
    """SIGTERM or SIGINT to a driver: a note for Tune to stop all trials; a second one ends the process.

    Only a note, as an exception raised inside Ray's own calls would be lost there. To be made after ray.init, which
    puts handlers of its own there.
    """

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.asked = True
        for again in (signal.SIGTERM, signal.SIGINT):
            signal.signal(again, signal.SIG_DFL)


def _knock(address: str) -> None:
    """Fail at once where nothing listens: Ray itself would retry for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def uses_gpu(cell: Cell, resources: dict[str, float]) -> bool:
    wanted = cell.config.engine.device
    return wanted == "cuda" or (wanted == "auto" and resources.get("GPU", 0) >= 1)


def check_fits(cells: list[Cell], resources: dict[str, float]) -> None:
    """Refuse a cell that could never be scheduled, before anything trains."""
    for cell in cells:
        kind = "GPU" if uses_gpu(cell, resources) else "CPU"
        there, needed = int(resources.get(kind, 0)), cell.config.engine.workers
        if needed > there:
            fits = f"--workers {there} would fit" if there else "start a node that offers some"
            raise HarnessError(
                f"a run needs {needed} workers with one {kind} each, the cluster has {there} {kind}s: {fits}"
                + (", or use --device cpu" if kind == "GPU" else "")
            )
