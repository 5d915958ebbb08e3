"""`sbatch clusters/slurm.sbatch` on a real Slurm: a controller and two nodes, on hosts as in tests/clusters/hosts.py.

Nodes without GPUs, so the line that asks for some is taken out of the script, as its reader is told to.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import pytest

from harness.track.record import read_result
from tests.clusters.hosts import ROOT, Hosts, lacking
from tests.clusters.test_hosts import wait_for

SLURM = ("slurmctld", "slurmd", "munged", "sbatch")


def missing() -> str:
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    absent = [tool for tool in SLURM if shutil.which(tool, path=path) is None]
    return lacking() or (f"needs {', '.join(absent)}: apt-get install slurmctld slurmd munge" if absent else "")


pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

CONFIG = """\
ClusterName=test
SlurmctldHost=h1({first})
AuthInfo=socket={base}/munge.socket
SlurmUser=root
StateSaveLocation={base}/own/state
SlurmdSpoolDir={base}/own/spool
SlurmctldPidFile={base}/own/slurmctld.pid
SlurmdPidFile={base}/own/slurmd.pid
SlurmctldLogFile={base}/own/slurmctld.log
SlurmdLogFile={base}/own/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
ReturnToService=2
NodeName=h1 NodeAddr={first} CPUs=1
NodeName=h2 NodeAddr={second} CPUs=1
PartitionName=all Nodes=ALL Default=YES State=UP
"""
RUNS = ["digits_r34", "--tracking", "none", "--seeds", "0,1"]
RUNS += [f"--set={s}" for s in ("model.width=4", "method.name=set", "method.density=0.1", "method.interval=20")]


@dataclass
class Slurm:
    hosts: Hosts
    checkout: Path
    env: dict[str, str]

    def on_head(self, *words: str) -> str:
        inside = self.hosts["h1"].enter("env", f"--chdir={self.checkout}", *words)
        done = subprocess.run(inside, env=self.env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, *words: str) -> str:
        """Returns the job's number."""
        return self.on_head("sbatch", "--parsable", "clusters/slurm.sbatch", *words).strip()

    def log(self, job: str) -> str:
        path = self.checkout / f"harness-{job}.log"
        return path.read_text() if path.exists() else ""

    def end_of(self, job: str) -> str:
        """Its exit code as Slurm has it, once it has one."""
        shown = wait_for(lambda: re.search(r"JobState=(?!PENDING|RUNNING|COMPLETING)\w+", self.state(job)), 300)
        assert shown, self.log(job)
        found = re.search(r"ExitCode=(\S+)", self.state(job))
        assert found is not None
        return found[1]

    def state(self, job: str) -> str:
        return self.on_head("scontrol", "show", "job", job)


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    base = Path(mkdtemp(prefix="slurm-", dir="/var/tmp"))  # each host has a /tmp of its own
    hosts = Hosts(base, ("h1", "h2"))
    munged = None
    try:
        checkout, home = hosts.shared / "checkout", hosts.shared / "home"
        for folder in (checkout / "clusters", home):
            folder.mkdir(parents=True)
        script = (ROOT / "clusters" / "slurm.sbatch").read_text()
        (checkout / "clusters" / "slurm.sbatch").write_text(re.sub(r"#SBATCH --gpus-per-node.*\n", "", script))
        (checkout / "clusters" / "submit.py").symlink_to(ROOT / "clusters" / "submit.py")
        (checkout / ".venv").symlink_to(sys.prefix)
        (base / "munge.key").write_bytes(os.urandom(1024))
        (base / "munge.key").chmod(0o600)
        paths = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log",
                 "seed-file": "munge.seed"}  # fmt: skip
        given = [f"--{option}={base / name}" for option, name in paths.items()]
        munged = subprocess.Popen(["/usr/sbin/munged", "--foreground", "--force", *given], stderr=subprocess.DEVNULL)
        config = base / "slurm.conf"
        config.write_text(CONFIG.format(base=base, first=hosts["h1"].address, second=hosts["h2"].address))
        env = {**os.environ, "SLURM_CONF": str(config), "HOME": str(home)}
        found = Slurm(hosts, checkout, env)
        wait_for((base / "munge.socket").exists, 20)
        for name, daemon in (("h1", "slurmctld"), ("h1", "slurmd"), ("h2", "slurmd")):
            hosts[name].run("mkdir", "-p", f"{base}/own/state", f"{base}/own/spool")
            hosts[name].run(f"/usr/sbin/{daemon}", env=env)
        wait_for(lambda: found.on_head("sinfo", "-h", "-o", "%t %D").split() == ["idle", "2"], 60)
        yield found
    finally:
        hosts.end()
        if munged is not None:
            munged.kill()
            munged.wait()
        shutil.rmtree(base, ignore_errors=True)


def test_a_job_stopped_before_its_limit_goes_on_when_submitted_again(slurm: Slurm) -> None:
    """The signal that Slurm sends five minutes before the limit, sent by hand. Runs are on both nodes; the job ends as
    its command does."""
    out = slurm.checkout / "runs"
    words = ["bench", *RUNS, "--set=schedule.epochs=30"]
    job = slurm.submit(*words)
    wait_for(lambda: len([p for p in out.glob("*/record.jsonl") if '"evaluation"' in p.read_text()]) == 2, 200)
    slurm.on_head("scancel", "--signal=TERM", "--batch", job)
    assert slurm.end_of(job) == "75:0", slurm.log(job)
    assert not list(out.glob("*/result.json")), slurm.log(job)
    assert len(list(out.glob("*/checkpoint-*.safetensors"))) >= 2
    began = {path: path.read_text().splitlines()[:2] for path in out.glob("*/record.jsonl")}
    again = slurm.submit(*words)
    assert slurm.end_of(again) == "0:0", slurm.log(again)
    assert "2 runs took" in slurm.log(again)
    for path, lines in began.items():
        assert path.read_text().splitlines()[:2] == lines, "it went on"
    results = [read_result(path.parent) for path in began]
    assert sorted(r["hosts"] for r in results if r and r["status"] == "done") == [["h1"], ["h2"]]
    assert not list(slurm.checkout.glob(".harness-*"))
