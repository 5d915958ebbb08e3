"""A search from its first trial to its best configuration, confirmed with fresh seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml
from optuna.trial import FixedTrial, FrozenTrial, TrialState
from rich.console import Console

from harness.config import Cell, RunConfig
from harness.config.schema import TuningConfig
from harness.errors import HarnessError
from harness.track.record import RECORD, read_result, write_whole
from harness.tune.cluster import LeaveRequest, check_fits, connected, uses_gpu
from harness.tune.fairness import curve_of
from harness.tune.launch import at_once, run_trials
from harness.tune.nodes import check_nodes
from harness.tune.progress import Glance, ProgressView, fraction_done
from harness.tune.search import Search
from harness.tune.searching import StudySearcher
from harness.tune.study import Study, cost_of, facts_of, load_trials, owned_study, run_name

BEST = "best.yaml"
SUMMARY = "summary.json"


def studies_root(out: Path) -> Path:
    return out / "studies"


def run_search(
    search: Search, out: Path, address: str, console: Console, concurrent: int | None = None, gpu_share: float = 1.0,
    warm: list[dict[str, Any]] | None = None, follow: Callable[[Path, str], None] = lambda run_dir, name: None,
) -> dict[str, Any]:  # fmt: skip
    """Run what is left of a search, confirm the best, write `best.yaml` and `summary.json`; returns the summary.

    warm: proposals tried first, with what is known of them. follow: called with the folder of each run there is or will
    be, and its name.
    """
    folder = studies_root(out) / search.name
    with owned_study(folder, search) as study:
        for proposal in warm or []:
            study.enqueue(**proposal)
        study.on_run = lambda run_id: follow(study.runs / run_id, run_name(study.numbers, run_id))
        for record in sorted(study.runs.glob(f"*/{RECORD}")):
            study.on_run(record.parent.name)
        if study.exhausted and not unconfirmed(study):
            console.print(f"{search.name}: the search is done; a larger --trials goes on from here")
        else:
            with connected(address) as resources:
                check_nodes(address, out, [Cell(search.base, 0)], console)
                run_study(study, resources, console, concurrent, gpu_share)
        confirmed = confirmed_best(study)
        summary = summarise(study, confirmed)
        write_recipes(study, summary, folder)
        write_whole(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
        return summary


def run_study(
    study: Study, resources: dict[str, float], console: Console, concurrent: int | None, gpu_share: float
) -> None:
    """Trials until the budget is spent, then the best of them with fresh seeds."""
    like, leave = Cell(study.search.base, 0), LeaveRequest()
    check_fits([like], resources)
    searcher = StudySearcher(study, leave, uses_gpu(like, resources), lambda: unconfirmed(study))
    study.gpu_share = gpu_share
    n_at_once = at_once(like, resources, gpu_share, concurrent)
    with ProgressView(StudyLook(study), console):
        run_trials(like, study.folder, resources, leave, n_at_once, searcher=searcher, gpu_share=gpu_share)


def proposals_from(studies: Path, name: str, top: int) -> list[dict[str, Any]]:
    """What was best in an earlier study, with what it was worth there."""
    study = load_trials(studies / name, name)
    if len(study.directions) > 1:
        trials = study.best_trials
    else:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        trials = distinct(sorted(complete, key=lambda t: t.values[0], reverse=study.direction.name == "MAXIMIZE"))
    return [
        {"params": t.params, "from_study": name, "from_trial": t.number, "from_value": t.values[0]}
        for t in trials[:top]
    ]


def candidates(study: Study) -> dict[int, list[Cell]]:
    """The best trials of a search with one objective, by number, each with the runs of seeds it has not used."""
    search = study.search
    if len(search.file.objectives) > 1:
        return {}
    objective, plan = search.file.objectives[0], search.file.confirm
    sign = -1 if objective.direction == "maximize" else 1
    ranked = sorted(study.trials((TrialState.COMPLETE,)), key=lambda t: (sign * t.values[0], t.number))
    first = max(search.file.seeds) + 1
    return {
        t.number: [Cell(search.configure(FixedTrial(t.params)), seed) for seed in range(first, first + plan.seeds)]
        for t in distinct(ranked)[: plan.top]
    }


def unconfirmed(study: Study) -> list[Cell]:
    """What is left to run before one trial is called best."""
    cells = [cell for of in candidates(study).values() for cell in of]
    return [cell for cell in cells if (read_result(study.runs / cell.run_id) or {}).get("status") != "done"]


def confirmed_best(study: Study) -> list[dict[str, Any]]:
    """The candidates with their fresh seeds, the best first."""
    search, trials = study.search, study.trials()
    if not any(t.state == TrialState.COMPLETE for t in trials):
        reasons = {t.user_attrs.get("reason", "pruned") for t in trials}
        raise HarnessError(f"{search.name}: no trial ended well: {'; '.join(sorted(reasons)[:3])}")
    objective, out = search.file.objectives[0], []
    for number, cells in candidates(study).items():
        found = [read_result(study.runs / cell.run_id) for cell in cells]
        done = [r for r in found if r is not None and r["status"] == "done"]
        values = [float(r[objective.metric]) for r in done]
        out.append(
            {
                "number": number, "searched": trials[number].values[0], "seeds": [cell.seed for cell in cells],
                "values": values, "mean": mean(values) if values else None,
                "std": stdev(values) if len(values) > 1 else None,
                "train_seconds": sum(r["train_seconds"] for r in done),
                "train_flops": sum(r["train_flops"] for r in done),
                "gpu_hours": facts_of(done, study.runs, study.gpu_share)["gpu_hours"],
            }
        )  # fmt: skip
    sign = -1 if objective.direction == "maximize" else 1
    out.sort(key=lambda c: sign * c["mean"] if c["mean"] is not None else float("inf"))
    return out


def distinct(ranked: list[FrozenTrial]) -> list[FrozenTrial]:
    """The first trial of each setting: proposals may repeat."""
    seen: dict[str, FrozenTrial] = {}
    for trial in ranked:
        seen.setdefault(json.dumps(trial.params, sort_keys=True), trial)
    return list(seen.values())


def summarise(study: Study, confirmed: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything a reader, a report or a leaderboard needs of a study."""
    search, trials = study.search, study.trials()
    cost = cost_of(trials)
    for key in cost:
        cost[key] += sum(c[key] for c in confirmed)
    states = {s.name.lower(): sum(t.state == s for t in trials) for s in TrialState if s != TrialState.WAITING}
    summary = {
        "name": search.name, "description": search.file.description, "base": search.file.base,
        "objectives": [{"metric": o.metric, "direction": o.direction} for o in search.file.objectives],
        "seeds": list(search.file.seeds), "sampler": search.file.sampler.model_dump(),
        "pruner": search.file.pruner.model_dump(), "n_trials": len(trials), "states": states,
        "wall_seconds": round(study.seconds, 1), **cost, "confirmed": confirmed,
        "best": None, "front": [],
        "trials": [plain_trial(t) for t in trials],
    }  # fmt: skip
    if len(search.file.objectives) > 1:
        summary["front"] = sorted(t.number for t in study.optuna.best_trials)
    else:
        summary["best"] = confirmed[0]["number"] if confirmed else study.optuna.best_trial.number
    return summary


def plain_trial(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number, "state": trial.state.name.lower(), "values": trial.values, "params": trial.params,
        "intermediate": {str(k): v for k, v in trial.intermediate_values.items()}, **trial.user_attrs,
    }  # fmt: skip


def write_recipes(study: Study, summary: dict[str, Any], folder: Path) -> None:
    """The best configuration, or each of a Pareto front, as a recipe that `harness train` takes as it is."""
    tuning = TuningConfig(
        study=study.search.name, trials=summary["n_trials"], train_seconds=summary["train_seconds"],
        train_flops=summary["train_flops"], gpu_hours=summary["gpu_hours"], expected_best=expected(summary),
        best=summary["confirmed"][0]["mean"] if summary["confirmed"] else None,
    )  # fmt: skip
    by_number = {t.number: t for t in study.trials()}
    if summary["best"] is not None:
        write_recipe(folder / BEST, study.search, by_number[summary["best"]], tuning)
    for number in summary["front"]:
        write_recipe(folder / "front" / f"trial-{number}.yaml", study.search, by_number[number], tuning)


def expected(summary: dict[str, Any]) -> dict[int, float]:
    """Expected best at some numbers of trials up to all; nothing for several objectives."""
    if len(summary["objectives"]) > 1:
        return {}
    curve = curve_of(summary)
    return {n: round(curve[n - 1], 6) for n in sorted({1, 2, 5, 10, 20, 50, 100, 200, len(curve)}) if n <= len(curve)}


def write_recipe(path: Path, search: Search, trial: FrozenTrial, tuning: TuningConfig) -> None:
    config = search.configure(FixedTrial(trial.params))
    config = config.model_copy(
        update={"tuning": tuning, "evaluation": config.evaluation.model_copy(update={"test": True})}
    )
    path.parent.mkdir(exist_ok=True)
    write_whole(path, recipe_text(config, f"Trial {trial.number} of the search {search.name}"))


def recipe_text(config: RunConfig, description: str) -> str:
    plain = config.model_dump(mode="json")
    plain["data"]["root"] = None  # where the data lie is not part of a recipe
    del plain["tracking"]
    return yaml.safe_dump({"description": description, **plain}, sort_keys=False)


class StudyLook:
    """Where a search stands: trials and their states, the best so far, confirmations."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.last: list[Cell] | None = None

    def __call__(self) -> Glance:
        study, file = self.study, self.study.search.file
        trials, running = study.trials(), list(study.running.values())
        count = {s: sum(t.state == s for t in trials) for s in TrialState}
        ended = count[TrialState.COMPLETE] + count[TrialState.PRUNED] + count[TrialState.FAIL]
        parts = sum(mean(fraction_done(study.runs / c.run_id) for c in p.cells) for p in running)
        shares = [(ended + parts) / file.budget.trials] if file.budget.trials else []
        if file.budget.hours:
            shares.append(study.seconds / 3600 / file.budget.hours)
        cost = cost_of(trials)
        for key, limit in (("gpu_hours", file.budget.gpu_hours), ("train_flops", file.budget.train_flops)):
            if limit:
                shares.append(cost[key] / limit)
        share, confirming = min(1.0, max(shares)), ""
        n_last = file.confirm.top * file.confirm.seeds if len(file.objectives) == 1 else 0
        last = n_last / (n_last + max(1, ended) * len(file.seeds) / max(share, 0.01))  # as a part of all runs
        share *= 1 - last
        if study.exhausted and not running:
            if self.last is None:
                self.last = [cell for of in candidates(study).values() for cell in of]
            done = [fraction_done(study.runs / cell.run_id) for cell in self.last]
            share += last * mean(done) if done else last
            confirming = f", the best again with fresh seeds: {done.count(1.0)}/{len(done)}" if done else ""
        of = f"/{file.budget.trials}" if file.budget.trials else ""
        words = [f"{len(running)} running"] if running else []
        words += [
            f"{count[s]} {w}" for s, w in ((TrialState.PRUNED, "pruned"), (TrialState.FAIL, "failed")) if count[s]
        ]
        states = f" ({', '.join(words)})" if words else ""
        best = ""
        if len(file.objectives) == 1 and count[TrialState.COMPLETE]:
            found = study.optuna.best_trial
            best = f", best {file.objectives[0].metric} {found.values[0]:.4g} (trial {found.number})"
        return Glance(share, f"{ended}{of} trials{states}{best}{confirming}")
