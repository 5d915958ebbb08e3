"""A search under Ray Tune: Tune asks in this process what to run next, and says here what came of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from harness.config import Cell
from harness.tune.cluster import LeaveRequest
from harness.tune.launch import trial_of
from harness.tune.study import Study


class StudySearcher(Searcher):
    """Between Tune and the study. Tune's own bookkeeping is thrown away with it; the study is what lasts."""

    def __init__(self, study: Study, leave: LeaveRequest, gpu: bool, last: Callable[[], list[Cell]]) -> None:
        """last: what is run when all trials have ended."""
        super().__init__(metric=None, mode=None)
        self.study, self.leave, self.gpu, self.last = study, leave, gpu, last
        self.numbers: dict[str, int] = {}
        self.confirming: dict[str, Cell] = {}
        self.left: list[Cell] | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.leave.asked:
            return Searcher.FINISHED
        proposal = self.study.next()
        if proposal is None:
            return self._last(trial_id) if self.study.exhausted and not self.numbers else None
        self.numbers[trial_id] = proposal.number
        # a pruner decides at each evaluation, so the trial lets it look at each
        tick_s = 5.0 if self.study.search.file.pruner.name == "none" else 0.0
        return {"trial": trial_of(list(proposal.cells), self.study.runs, self.gpu, tick_s)}

    def _last(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.left is None:
            self.left = self.last()
        if not self.left:
            return None if self.confirming else Searcher.FINISHED
        cell = self.confirming[trial_id] = self.left.pop(0)
        self.study.on_run(cell.run_id)
        return {"trial": trial_of([cell], self.study.runs, self.gpu, tick_s=5.0)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id in self.numbers:
            self.study.follow(self.numbers[trial_id])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number, status = self.numbers.pop(trial_id, None), (result or {}).get("status")
        if number is None:  # a confirmation: its result is what lasts
            cell = self.confirming.pop(trial_id)
            if status == "preempted" and not self.leave.asked:
                assert self.left is not None
                self.left.append(cell)
            return
        if status == "preempted" and not self.leave.asked:
            self.study.put_back(number)
            return
        if self.leave.asked and status != "done":
            return  # stopped in its middle, to be continued
        self.study.finish(number, "its process was lost again and again" if error else None)

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a new Tune experiment continues the study."""

    def __reduce__(self) -> Any:
        return object, ()  # Tune writes itself to disk; nobody reads it
