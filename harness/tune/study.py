"""The one owner of an Optuna study: what is tried next, what came out, and which trial is stopped early.

Nothing is held in memory that the journal and the runs' own records do not hold: a study whose owner was killed goes on
from there. Every operation may be done twice.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from harness.config import Cell
from harness.errors import HarnessError
from harness.track.record import STOP_NOTE, end_early, read_events, read_result, write_whole
from harness.tune.samplers import pruner_for, sampler_for
from harness.tune.search import Search, grid_of, inside

JOURNAL = "journal.log"
DEFINITION = "search.yaml"
LOCK = ".lock"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A trial to be run: one cell per seed."""

    number: int
    cells: tuple[Cell, ...]


@contextmanager
def owned_study(folder: Path, search: Search) -> Iterator[Study]:
    """Begin or continue the study in `folder`; HarnessError if another process does, or if it is another search."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HarnessError(
                f"another process is running the study {search.name} in {folder}: wait for it, stop it, or give --name"
            ) from None
        same_search(folder / DEFINITION, search)
        repair_journal(folder / JOURNAL)
        yield Study(folder, search)


def same_search(path: Path, search: Search) -> None:
    """Write what defines the study, or see that it is what defined it when it began."""
    wanted = json.loads(json.dumps(search.definition()))
    if not path.exists():
        write_whole(path, yaml.safe_dump(wanted, sort_keys=False))
        return
    held = yaml.safe_load(path.read_text())
    if held != wanted:
        other = [f"{k}: {a} before, {b} now" for k, (a, b) in differences(held, wanted).items()]
        shown = "; ".join(other[:4])
        raise HarnessError(
            f"the study in {path.parent} was begun with another search ({shown}): give --name for a new one"
        )


def differences(before: Any, now: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        out: dict[str, tuple[Any, Any]] = {}
        for k in sorted({*before, *now}):
            out |= differences(before.get(k), now.get(k), f"{key}.{k}" if key else k)
        return out
    return {} if before == now else {key: (before, now)}


def repair_journal(path: Path) -> None:
    """Take back a line that a process was killed in, and the lock it held. The caller is the only owner."""
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if path.exists():
        whole = path.read_bytes().rfind(b"\n") + 1
        if whole < path.stat().st_size:
            os.truncate(path, whole)


def load_trials(folder: Path, name: str) -> optuna.Study:
    """A study to look at, whoever runs it."""
    if not (folder / JOURNAL).exists():
        raise HarnessError(f"no study in {folder}: run `harness tune` first, or give --out DIR")
    return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))))


def numbers_of(trials: list[FrozenTrial]) -> dict[str, int]:
    """By run, the first trial that it is of."""
    return {run_id: trial.number for trial in reversed(trials) for run_id in trial.user_attrs.get("runs", [])}


def run_name(numbers: dict[str, int], run_id: str) -> str:
    """What a run of a study is to a reader."""
    seed = run_id.rpartition("-")[2]
    if run_id in numbers:
        return f"trial {numbers[run_id]}, seed {seed}"
    return f"one of the best again, seed {seed}"


def n_trials(folder: Path, name: str) -> int:
    """Trials a study has begun, 0 where there is none."""
    return len(load_trials(folder, name).get_trials(deepcopy=False)) if (folder / JOURNAL).exists() else 0


class Study:
    """Made by `owned_study`."""

    def __init__(self, folder: Path, search: Search) -> None:
        self.folder, self.search, self.runs = folder, search, folder / "runs"
        self.storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
        self.optuna = optuna.create_study(
            study_name=search.name, storage=self.storage, load_if_exists=True, pruner=pruner_for(search.file.pruner),
            directions=[o.direction for o in search.file.objectives],
        )  # fmt: skip
        self.running: dict[int, Proposal] = {}
        self.held: Proposal | None = None
        self.gpu_share = 1.0
        self.on_run: Callable[[str], None] = lambda run_id: None
        """Called with each run before it is started."""
        self.numbers = numbers_of(self.trials())
        """Of the first trial, by run."""

        self._unfinished = [t.number for t in self.trials((TrialState.RUNNING,))]
        self._began = time.monotonic()
        self._seconds_before = float(self.optuna.user_attrs.get("seconds", 0.0))
        if not self.optuna.trials:
            for params in search.file.start:
                self.enqueue(params)

    def trials(self, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False, states=states)

    def enqueue(self, params: dict[str, Any], **facts: Any) -> None:
        """Propose this before anything else; parameters it leaves out, or that lie outside the space, are sampled."""
        self.optuna.enqueue_trial(inside(self.search, params), user_attrs=facts, skip_if_exists=True)

    # --- what is tried ---------------------------------------------------------------------------------

    def next(self) -> Proposal | None:
        """The next trial to run: those left running by an owner that died come first. None if there is nothing now."""
        while True:
            proposal = self.held or self._propose()
            self.held = None
            if proposal is None:
                return None
            ids = {cell.run_id for other in self.running.values() for cell in other.cells}
            if ids & {cell.run_id for cell in proposal.cells}:
                self.held = proposal  # the same run is being trained: its result will serve both
                return None
            self.running[proposal.number] = proposal
            for cell in proposal.cells:
                (self.runs / cell.run_id / STOP_NOTE).unlink(missing_ok=True)
                self.on_run(cell.run_id)
            self.follow(proposal.number)
            if self._pruned_at(proposal.number) is None:
                return proposal
            self.finish(proposal.number)

    def put_back(self, number: int) -> None:
        """To be run again, from where it was saved: the machine under it was taken away."""
        del self.running[number]
        self._unfinished.append(number)

    def _propose(self) -> Proposal | None:
        while self._unfinished or not self.spent():
            if self._unfinished:
                number = self._unfinished.pop(0)
                trial = self._trial(number)
            else:
                number = self.trials()[-1].number + 1 if self.trials() else 0
                waiting = self.trials((TrialState.WAITING,))
                number = waiting[0].number if waiting else number
                self.optuna.sampler = sampler_for(self.search, number)
                trial = self.optuna.ask()
                assert trial.number == number
            try:
                config = self.search.configure(trial)
            except HarnessError as error:
                self._fail(number, str(error))
                continue
            cells = tuple(Cell(config, seed) for seed in self.search.file.seeds)
            if "runs" not in trial.user_attrs:
                trial.set_user_attr("runs", [cell.run_id for cell in cells])
            for cell in cells:
                self.numbers.setdefault(cell.run_id, number)
            return Proposal(number, cells)
        return None

    def _trial(self, number: int) -> optuna.Trial:
        """A trial that was asked for before; what it was given then it is given again."""
        self.optuna.sampler = sampler_for(self.search, number)
        return optuna.Trial(self.optuna, self.trials()[number]._trial_id)

    @property
    def exhausted(self) -> bool:
        """Nothing will be proposed any more."""
        return self.held is None and not self._unfinished and self.spent()

    def spent(self) -> bool:
        """Whether the budget leaves no further trial."""
        budget, trials = self.search.file.budget, self.trials()
        n_begun = sum(t.state != TrialState.WAITING for t in trials)
        if self.search.file.sampler.name == "grid" and self._grid_is_done(trials):
            return True
        return (
            (budget.trials is not None and n_begun >= budget.trials)
            or (budget.hours is not None and self.seconds >= 3600 * budget.hours)
            or (budget.gpu_hours is not None and cost_of(trials)["gpu_hours"] >= budget.gpu_hours)
            or (budget.train_flops is not None and cost_of(trials)["train_flops"] >= budget.train_flops)
        )

    def _grid_is_done(self, trials: list[FrozenTrial]) -> bool:
        asked = {t.system_attrs["grid_id"] for t in trials if "grid_id" in t.system_attrs}
        return len(asked) >= math.prod(len(values) for values in grid_of(self.search).values())

    @property
    def seconds(self) -> float:
        """Wall time of the search, over all its owners."""
        return self._seconds_before + time.monotonic() - self._began

    # --- what came out ---------------------------------------------------------------------------------

    def follow(self, number: int) -> None:
        """Bring the trial up to its first seed's record, and ask its run to stop where the pruner says so."""
        if self.search.file.pruner.name == "none" or self._pruned_at(number) is not None:
            return
        run_dir = self.runs / self.running[number].cells[0].run_id
        trial = self._trial(number)
        known = self.trials()[number].intermediate_values
        for event in read_events(run_dir):
            if event["event"] != "evaluation" or event["step"] in known or event["step"] == event["total_steps"]:
                continue
            trial.report(event["val_accuracy"], event["step"])
            if trial.should_prune():
                trial.set_user_attr("pruned_at", event["step"])
                (run_dir / STOP_NOTE).touch()
                return

    def _pruned_at(self, number: int) -> int | None:
        at: int | None = self.trials()[number].user_attrs.get("pruned_at")
        return at

    def finish(self, number: int, lost: str | None = None) -> None:
        """Tell Optuna what became of a trial, from the results of its runs. `lost`: why there may be none."""
        proposal = self.running.pop(number)
        if self.trials()[number].state in ENDED:
            return
        pruned_at = self._pruned_at(number)
        status, reason = ("pruned", f"pruned at step {pruned_at}") if pruned_at else ("failed", lost or "lost")
        for cell in proposal.cells:
            end_early(self.runs / cell.run_id, status, reason)
        results = [read_result(self.runs / cell.run_id) for cell in proposal.cells]
        found = [r for r in results if r is not None]
        trial = self._trial(number)
        for key, value in facts_of(found, self.runs, self.gpu_share).items():
            trial.set_user_attr(key, value)
        self.optuna.set_user_attr("seconds", self.seconds)
        done = [r for r in found if r["status"] == "done"]
        if pruned_at is not None:  # even if the run came to its end before it saw the note
            self.optuna.tell(number, state=TrialState.PRUNED)
        elif len(done) == len(proposal.cells):
            values = [mean(float(r[o.metric]) for r in done) for o in self.search.file.objectives]
            self.optuna.tell(number, values)
        else:
            bad = [r.get("reason") or r["status"] for r in found if r["status"] != "done"]
            self._fail(number, bad[0] if bad else lost or "its process was lost and left no result")

    def _fail(self, number: int, reason: str) -> None:
        self._trial(number).set_user_attr("reason", reason)
        self.optuna.tell(number, state=TrialState.FAIL)


def facts_of(results: list[dict[str, Any]], runs: Path, gpu_share: float) -> dict[str, Any]:
    """What a trial cost, and its numbers by seed."""
    facts: dict[str, Any] = {}
    seconds, flops, gpu_seconds = 0.0, 0.0, 0.0
    for r in results:
        last = [e for e in read_events(runs / r["run_id"]) if e["event"] == "evaluation"][-1:]
        spent = float(r.get("train_seconds") or (last[0]["seconds"] if last else 0.0))
        seconds += spent
        flops += float(r.get("train_flops") or (last[0]["train_flops"] if last else 0.0))
        if r.get("device_type") == "cuda":
            gpu_seconds += spent * r["workers"] * gpu_share
    facts["train_seconds"], facts["train_flops"], facts["gpu_hours"] = seconds, flops, gpu_seconds / 3600
    done = [r for r in results if r["status"] == "done"]
    for key in ("val_accuracy_last", "density", "train_flops", "train_seconds"):
        facts[f"by_seed.{key}"] = [r[key] for r in done]
    return facts


def cost_of(trials: list[FrozenTrial]) -> dict[str, float]:
    return {
        key: sum(float(t.user_attrs.get(key, 0.0)) for t in trials)
        for key in ("train_seconds", "train_flops", "gpu_hours")
    }
