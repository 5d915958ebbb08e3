"""What `ray submit` runs on the head node: the same command line, connected to the cluster that runs there.

ray submit ray_config.yaml clusters/submit.py bench demo         # starts a job, shows what it says, ends as it ends
ray submit ray_config.yaml clusters/submit.py -- --follow NAME  # shows it again, from its beginning
ray submit ray_config.yaml clusters/submit.py -- --stop NAME    # runs save themselves; the same command goes on

The job goes on when the connection is lost. `--here` runs the command in this process instead, as Ray Jobs and Slurm,
which keep logs and exit codes of their own, want it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from harness.cli import main
from harness.config.recipes import out_root
from harness.errors import HarnessError

USES_RAY = ("train", "bench", "tune", "plan")
LOOK_EVERY_S = 0.3
LOST = 3
"""Exit code for a job whose process ended without leaving one: its node was lost, or it was killed."""

# The command's own exit code, there whole or not at all. The shell hears SIGTERM too, and waits for the command.
RUN = 'trap : TERM; "$@"; code=$?; echo $code > "$0.part" && mv "$0.part" "$0"'


def arguments(words: list[str]) -> list[str]:
    """The command as given, with --address auto unless it names an address."""
    named = any(word == "--address" or word.startswith("--address=") for word in words)
    if words and words[0] in USES_RAY and not named:
        return [*words, "--address", "auto"]
    return words


class Job:
    """A command that outlives whoever started it: its log, process and exit code lie in <out>/jobs."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.log, self.pid_file, self.code_file = (folder / f"{name}.{kind}" for kind in ("log", "pid", "exit"))

    def start(self, words: list[str]) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = ["sh", "-c", RUN, str(self.code_file), sys.executable, "-u", "-m", "harness", *words]
        with self.log.open("xb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.pid_file.write_text(str(process.pid))

    def follow(self) -> int:
        """Show all it has said and what it says, until it ends; returns its exit code."""
        with self.log.open() as log:
            while True:
                ended = self.code_file.exists() or not self.alive()
                sys.stdout.write(log.read())
                sys.stdout.flush()
                if ended:
                    return int(self.code_file.read_text()) if self.code_file.exists() else LOST
                time.sleep(LOOK_EVERY_S)

    def alive(self) -> bool:
        try:
            state = Path(f"/proc/{self.pid_file.read_text()}/stat").read_text()
        except OSError:
            return False
        return state.rpartition(")")[2].split()[0] != "Z"  # a zombie is one that nobody has waited for

    def stop(self) -> None:
        if not self.alive():
            raise HarnessError(f"job {self.name} is not running")
        os.killpg(int(self.pid_file.read_text()), signal.SIGTERM)


def found(folder: Path, name: str) -> Job:
    job = Job(folder, name)
    if not job.log.exists():
        known = sorted(path.stem for path in folder.glob("*.log"))[-8:]
        raise HarnessError(f"no job '{name}' in {folder}: " + (f"the last are {', '.join(known)}" if known else "none"))
    return job


def run(words: list[str]) -> int:
    folder = out_root(None) / "jobs"
    if words[:1] in (["--follow"], ["--stop"]):
        if len(words) != 2:
            raise HarnessError(f"{words[0]} needs the name of a job, got {len(words) - 1} words")
        job = found(folder, words[1])
        if words[0] == "--stop":
            job.stop()
        return job.follow()
    job = Job(folder, f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}")
    job.start(arguments(words))
    print(f"job {job.name}: goes on if this connection ends; --follow {job.name} shows it again", flush=True)
    try:
        return job.follow()
    except KeyboardInterrupt:
        print(f"\nno longer shown; job {job.name} goes on: --follow {job.name}, or --stop {job.name}", flush=True)
        return 0


if __name__ == "__main__":
    given = [word for word in sys.argv[1:] if word != "--"]
    if given[:1] == ["--here"]:
        sys.argv = ["harness", *arguments(given[1:])]
        main()
    else:
        try:
            sys.exit(run(given))
        except HarnessError as error:
            sys.exit(f"submit: {error}")
