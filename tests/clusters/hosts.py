"""Hosts on one machine: network namespaces joined by a bridge, each with its own name, folders, and sshd.

Needs root, Linux, iproute2, openssh-server and rsync. A host's home, its /tmp and what is mounted at `Hosts.own` are
its own; `Hosts.shared` is the same folder on all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

TOOLS = ("ip", "tc", "ssh", "sshd", "rsync", "unshare", "nsenter")
TAG = f"{os.getpid() % 10_000:04}"
"""In the names of devices, and so in addresses: tests of another checkout may run on this machine too."""

BRIDGE, NET = f"hb{TAG}", f"10.231.{os.getpid() % 250}"
ROOT = Path(__file__).parents[2]
HOME = Path("/root")
INIT = "while :; do sleep 1000 & wait; done"
"""A host's first process, to which orphans come."""


def lacking() -> str:
    """Why there can be no hosts here, or nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts are network namespaces, which need Linux and root"
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    if missing:
        return f"needs {', '.join(missing)}: apt-get install iproute2 openssh-server openssh-client rsync util-linux"
    probe = f"harness-probe-{os.getpid()}"  # the suite's processes ask at the same time
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", probe], capture_output=True)
    return "" if made.returncode == 0 else f"no network namespaces here: {made.stderr.strip()}"


def sh(*words: str, check: bool = True, **more: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, capture_output=True, text=True, **more)  # type: ignore[call-overload]
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return done  # type: ignore[no-any-return]


class Host:
    """Namespaces for network, name, mounts and processes: `ray stop` would end those of its neighbours otherwise."""

    def __init__(self, base: Path, name: str, address: str, everyone: dict[str, str]) -> None:
        self.name, self.address, self.folder = name, address, base / name
        for part in ("home", "tmp", "own"):
            (self.folder / part).mkdir(parents=True)
        (self.folder / "home" / ".bashrc").touch()
        (self.folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in everyone.items()))
        sh("ip", "link", "add", f"v{TAG}-{name}", "type", "veth", "peer", "name", f"p{TAG}-{name}")
        sh("ip", "link", "set", f"v{TAG}-{name}", "master", BRIDGE, "up")
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child",
             "--mount-proc", "bash", "-c", INIT],
            start_new_session=True,
        )  # fmt: skip
        self.pid = self._first_process()
        sh("ip", "link", "set", f"p{TAG}-{name}", "netns", str(self.pid))
        script = f"""
set -e
hostname {name}
ip link set lo up
ip link set p{TAG}-{name} name eth0
ip addr add {address}/24 dev eth0
ip link set eth0 up
mount --bind {self.folder}/hosts /etc/hosts
mount --bind {self.folder}/own {base}/own
mount -t tmpfs -o size=2g,mode=1777 tmpfs {self.folder}/tmp
{self._replaced(HOME, "home")}
{self._replaced(Path("/tmp"), "tmp")}
mkdir -p /run/sshd
"""
        self.run("bash", "-c", script)

    def _replaced(self, place: Path, part: str) -> str:
        """Commands that put a folder of the host's own in a place; Python and this checkout, if there, stay."""
        inside = [path for path in (Path(sys.base_prefix), ROOT, Path(sys.prefix)) if path.is_relative_to(place)]
        there = {path: self.folder / part / path.relative_to(place) for path in inside}
        keep = "".join(f"mkdir -p {new}\nmount --bind {path} {new}\n" for path, new in there.items())
        return f"{keep}mount --rbind {self.folder / part} {place}"

    def _first_process(self) -> int:
        """The host's init, once it is in all its namespaces."""
        children, until = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children"), time.monotonic() + 10
        while time.monotonic() < until:
            for pid in children.read_text().split():
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"bash"):
                    return int(pid)
            time.sleep(0.02)
        raise RuntimeError("no host came up")

    def enter(self, *words: str) -> list[str]:
        return ["nsenter", "--target", str(self.pid), "--net", "--uts", "--mount", "--pid", *words]

    def run(self, *words: str, check: bool = True, **more: object) -> subprocess.CompletedProcess[str]:
        return sh(*self.enter(*words), check=check, **more)

    def start_sshd(self, key: Path) -> None:
        config = self.folder / "sshd_config"
        config.write_text(
            f"HostKey {key}\nAuthorizedKeysFile {key}.pub\nPidFile {self.folder}/sshd.pid\nPermitRootLogin yes\n"
            "PasswordAuthentication no\nStrictModes no\nUsePAM no\nPermitUserEnvironment yes\n"
        )
        self.run("/usr/sbin/sshd", "-f", str(config))

    def cut_off(self) -> None:
        """The cable is pulled: nobody is told."""
        sh("ip", "link", "set", f"v{TAG}-{self.name}", "down")

    def plug_in(self) -> None:
        sh("ip", "link", "set", f"v{TAG}-{self.name}", "up")

    def slow_down(self, rate: str) -> None:
        """Both ways, e.g. '20mbit'."""
        for words in (["tc"], self.enter("tc")):
            device = f"v{TAG}-{self.name}" if len(words) == 1 else "eth0"
            sh(*words, "qdisc", "replace", "dev", device, "root", "tbf", "rate", rate, "burst", "64kb", "latency", "1s")

    def fill_disk(self) -> None:
        """To the last byte of what is the host's own: /tmp, where Ray has its logs and objects."""
        self.run("dd", "if=/dev/zero", "of=/tmp/full", "bs=1M", check=False)

    def end(self) -> None:
        """With its init, all of a host's processes go."""
        self.holder.kill()
        self.holder.wait()
        sh("ip", "link", "delete", f"v{TAG}-{self.name}", check=False)


class Hosts:
    def __init__(self, base: Path, names: Sequence[str] = ("h1", "h2", "h3")) -> None:
        self.base, self.shared, self.own = base, base / "shared", base / "own"
        for folder in (self.shared, self.own):
            folder.mkdir(parents=True)
        everyone = {name: f"{NET}.{10 + i}" for i, name in enumerate(names)}
        for left in (BRIDGE, *(f"v{TAG}-{name}" for name in names)):  # of a test that was killed
            sh("ip", "link", "delete", left, check=False)
        sh("ip", "link", "add", BRIDGE, "type", "bridge")
        sh("ip", "addr", "add", f"{NET}.1/24", "dev", BRIDGE)
        sh("ip", "link", "set", BRIDGE, "up")
        self.key = base / "key"
        sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        self.hosts: dict[str, Host] = {}
        for name, address in everyone.items():
            self.hosts[name] = Host(base, name, address, everyone)
        for host in self.hosts.values():
            host.start_sshd(self.key)

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def end(self) -> None:
        for host in self.hosts.values():
            host.end()
        sh("ip", "link", "delete", BRIDGE, check=False)
