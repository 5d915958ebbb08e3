"""The nodes of a cluster, asked on the spot: what they have, what they see, and what would stop a run there."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.config import Cell
from harness.config.schema import DataConfig
from harness.errors import HarnessError

GIB = 1 << 30
ANSWER_S = 90.0
"""A node that has not answered by then is at fault: a worker process starts and imports torch in a tenth of it."""

SILENT = (
    f"no answer for {ANSWER_S:.0f} s. Is the disk full where Ray keeps its logs (/tmp/ray), so that no process starts?"
)

REACH_S = 5.0
CLOCK_OFF_S = 2.0
LEAST_DISK, LEAST_SHARED, LEAST_FILES = 5.0, 1.0, 4096


@dataclass(frozen=True, slots=True)
class Node:
    """Of a node that could not be asked, `fault` says why and the rest is empty."""

    name: str
    address: str
    trains: bool
    """Whether it offers a CPU or GPU to runs."""

    software: str = ""
    gpus: tuple[str, ...] = ()
    nccl: str = ""
    sees_runs: bool = False
    data: dict[str, str] = field(default_factory=dict)
    """By data set, the folder, or why there is none."""

    lacks: tuple[str, ...] = ()
    """Data sets without a folder."""

    clock_s: float = 0.0
    """Its clock ahead of the driver's."""

    disk_gib: float = 0.0
    shared_gib: float = 0.0
    files: int = 0
    network: dict[str, str] = field(default_factory=dict)
    unreachable: tuple[str, ...] = ()
    fault: str = ""


class Scout:
    """Lives on a node while it is examined."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("", 0))

    def look(self, runs: str, note: str, data: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        from harness.data.sources import place_of
        from harness.train.machine import network_settings, software

        places, lacks = {}, []
        for plain in data:
            config = DataConfig.model_validate(plain)
            key = config.folder if config.name == "imagefolder" else config.name
            try:
                places[key] = str(place_of(config, config.root or os.environ.get("HARNESS_DATA")) or "made on the spot")
            except HarnessError as error:
                places[key] = str(error)
                lacks.append(key)
        sees = (Path(runs) / note).is_file()
        if sees:
            (Path(runs) / f"{note}-{socket.gethostname()}-{os.getpid()}").touch()
        n = torch.cuda.device_count()
        return {
            "software": software(), "gpus": tuple(torch.cuda.get_device_name(i) for i in range(n)),
            "nccl": ".".join(map(str, torch.cuda.nccl.version())) if n else "",
            "sees_runs": sees, "answer": f"{note}-{socket.gethostname()}-{os.getpid()}",
            "data": places, "lacks": tuple(lacks),
            "disk_gib": shutil.disk_usage(runs if sees else "/tmp").free / GIB,
            "shared_gib": shutil.disk_usage("/dev/shm").free / GIB if Path("/dev/shm").exists() else 0.0,
            "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0], "network": network_settings(),
        }  # fmt: skip

    def clock(self) -> float:
        return time.time()

    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    def reach(self, others: list[tuple[str, int]]) -> tuple[str, ...]:
        """Addresses of those that no connection comes to."""
        lost = []
        for address, port in others:
            try:
                socket.create_connection((address, port), timeout=REACH_S).close()
            except OSError:
                lost.append(address)
        return tuple(lost)


def survey(runs: Path, data: Sequence[DataConfig]) -> list[Node]:
    """Ask every living node of the cluster that this process is connected to. runs: the folder of runs here.

    A node that goes while it is asked is left out.
    """
    import ray

    runs.mkdir(parents=True, exist_ok=True)
    note = f".seen-{uuid.uuid4().hex[:12]}"
    (runs / note).touch()
    nodes, scouts = {}, {}
    for found in ray.nodes():
        if found["Alive"]:
            offers = found["Resources"]
            trains = offers.get("CPU", 0) > 0 or offers.get("GPU", 0) > 0
            key = found["NodeID"]
            nodes[key] = Node(found["NodeManagerHostname"], found["NodeManagerAddress"], trains)
            pinned = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(key, soft=False)
            scouts[key] = ray.remote(Scout).options(num_cpus=0, scheduling_strategy=pinned).remote()
    plain = [config.model_dump(mode="json") for config in data]
    until = time.monotonic() + ANSWER_S

    def answers(asked: dict[str, Any]) -> dict[str, Any]:
        """By node, what it said; one that says nothing has its fault noted."""
        said = {}
        for key, reference in asked.items():
            try:
                said[key] = ray.get(reference, timeout=max(0.1, until - time.monotonic()))
            except ray.exceptions.GetTimeoutError:
                nodes[key] = replace(nodes[key], fault=SILENT)
            except Exception as error:  # whatever it is that keeps a node from answering, its last line is told
                lines = str(error).strip().splitlines()
                nodes[key] = replace(nodes[key], fault=lines[-1] if lines else type(error).__name__)
        return said

    try:
        looks = answers({key: scout.look.remote(str(runs), note, plain) for key, scout in scouts.items()})
        for key, found in looks.items():
            answered = (runs / found.pop("answer")).exists()
            nodes[key] = replace(nodes[key], **found | {"sees_runs": found["sees_runs"] and answered})
        until = max(until, time.monotonic() + ANSWER_S / 3)
        ports = answers({key: scouts[key].port.remote() for key in looks})
        others = {key: [(nodes[k].address, port) for k, port in ports.items() if k != key] for key in ports}
        for key in ports:
            before = time.time()
            for now in answers({key: scouts[key].clock.remote()}).values():
                nodes[key] = replace(nodes[key], clock_s=now - (before + time.time()) / 2)
        for key, lost in answers({key: scouts[key].reach.remote(others[key]) for key in ports}).items():
            nodes[key] = replace(nodes[key], unreachable=lost)
    finally:
        for scout in scouts.values():
            ray.kill(scout)
        for left in runs.glob(f"{note}*"):
            left.unlink(missing_ok=True)
    # Ray takes half a minute to see that a node is gone: it is listed until then, and answers nothing.
    living = {found["NodeID"] for found in ray.nodes() if found["Alive"]}
    nodes = {key: node for key, node in nodes.items() if key in living}
    there = {node.address for node in nodes.values()}
    nodes = {k: replace(n, unreachable=tuple(a for a in n.unreachable if a in there)) for k, n in nodes.items()}
    return sorted(nodes.values(), key=lambda node: (node.trains, node.name, node.address))


def faults(nodes: Sequence[Node], software: str, runs: Path) -> Iterator[str]:
    """What keeps runs from training, or makes them train something else than they should; one clear line each."""
    names = {node.address: node.name for node in nodes}
    for node in nodes:
        where = f"node {node.name} ({node.address})"
        if node.fault:
            yield f"{where} cannot run the harness: {node.fault}; set it up as ray_config.yaml does"
            continue
        if node.software != software:
            yield f"{where} has {node.software}; here: {software}. Bring both to one version, then restart Ray there"
        if not node.sees_runs:
            yield f"{where} does not see {runs} as it is here: --out must lie on storage that all nodes share"
        if node.trains:
            for name in node.lacks:
                yield f"{where} has no data for {name}: {node.data[name]}"
            for address in node.unreachable:
                yield f"{where} cannot open a connection to {names[address]} ({address}): its ports must be open"


def doubts(nodes: Sequence[Node]) -> Iterator[str]:
    """What runs may suffer from."""
    kinds = sorted({gpu for node in nodes for gpu in node.gpus})
    if len(kinds) > 1:
        yield f"GPUs of {len(kinds)} kinds ({', '.join(kinds)}): a run on several must get one kind; rows name theirs"
    for node in (node for node in nodes if not node.fault):
        where = f"node {node.name}"
        if abs(node.clock_s) > CLOCK_OFF_S:
            side = "ahead of" if node.clock_s > 0 else "behind"
            yield f"{where}: its clock is {abs(node.clock_s):,.0f} s {side} this one's; its records' times are off"
        if node.sees_runs and node.disk_gib < LEAST_DISK:
            yield f"{where}: {node.disk_gib:.1f} GiB left for runs"
        if node.trains and node.shared_gib < LEAST_SHARED:
            yield f"{where}: {node.shared_gib:.1f} GiB of shared memory; containers: --shm-size=8g"
        if node.files < LEAST_FILES:
            yield f"{where}: {node.files} open files at most: ulimit -n 65536 before ray start"


def check_nodes(address: str, runs: Path, cells: Sequence[Cell], console: Console) -> None:
    """Refuse a cluster that would fail, or mislead, in the middle of a suite; tell what is doubtful.

    A cluster that this process started for itself is this machine.
    """
    from harness.train.machine import software

    if address == "local":
        return
    sections = {(c.config.data.name, c.config.data.folder, c.config.data.root): c.config.data for c in cells}
    nodes = survey(runs, list(sections.values()))
    found = list(faults(nodes, software(), runs))
    if found:
        more = f" (and {len(found) - 1} more: harness doctor --address {address})" if len(found) > 1 else ""
        raise HarnessError(found[0] + more)
    for doubt in doubts(nodes):
        console.print(f"note: {doubt}", markup=False)
