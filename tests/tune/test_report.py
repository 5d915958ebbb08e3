"""What is made of a study: importances, the comparison of methods, transfer, pages. Training is pretended."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from harness.cli.options import console_for
from harness.cli.searches import equalise
from harness.errors import HarnessError
from harness.tune.fairness import compare
from harness.tune.report import importances, transfer, write_report
from harness.tune.search import Search, load_search, with_budget
from harness.tune.study import Proposal, load_trials, owned_study
from harness.tune.tuning import (
    candidates,
    confirmed_best,
    proposals_from,
    summarise,
    unconfirmed,
    write_recipes,
)
from tests.tune.studies import SPACE, pretend, small_search, write_search


def searched(studies: Path, search: Search, worth: Any, warm: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """A finished study; worth: what a configuration and a seed are."""
    with owned_study(studies / search.name, search) as study:
        for proposal in warm or []:
            study.enqueue(**proposal)
        while (proposal := study.next()) is not None:
            for cell in proposal.cells:
                facts = {"density": cell.config.method.density, "workers": 1, "device_type": "cpu"}
                pretend(study, Proposal(-1, (cell,)), worth(cell.config, cell.seed), **facts)
            study.finish(proposal.number)
        for cell in unconfirmed(study):
            facts = {"density": cell.config.method.density, "workers": 1, "device_type": "cpu"}
            pretend(study, Proposal(-1, (cell,)), worth(cell.config, cell.seed), **facts)
        summary = summarise(study, confirmed_best(study))
        write_recipes(study, summary, study.folder)
        (study.folder / "summary.json").write_text(json.dumps(summary))
        return summary


def by_rate(config: Any, seed: int) -> float:
    return math.exp(-(math.log10(config.optimizer.lr / 0.2) ** 2))


def test_what_mattered(tmp_path: Path) -> None:
    space = {
        **SPACE,
        "method.style": {"kind": "choice", "of": ["append", "replace"]},
        "method.final_drop_fraction": {"kind": "float", "low": 0.0, "high": 0.1, "when": {"method.style": ["append"]}},
    }
    search = small_search(tmp_path, space=space, sampler={"name": "random"}, budget={"trials": 40})
    searched(tmp_path, search, by_rate)
    ranked = importances(load_trials(tmp_path / "small", "small"))
    assert ranked[0]["parameter"] == "optimizer.lr"
    assert ranked[0]["importance"] > 0.8
    n_trials = {r["parameter"]: r["n_trials"] for r in ranked}
    assert n_trials["optimizer.lr"] == 40
    assert 5 < n_trials["method.final_drop_fraction"] < 35  # only where it was proposed


def test_the_best_of_many_draws_is_not_called_best_for_it(tmp_path: Path) -> None:
    """In the search a lucky seed wins; with fresh seeds it does not."""
    search = small_search(tmp_path, sampler={"name": "random"}, budget={"trials": 10}, confirm={"top": 3, "seeds": 2})

    def lucky(config: Any, seed: int) -> float:
        rate = config.optimizer.lr
        return 0.5 + 0.1 * rate if seed == 0 else 0.5 - 0.1 * rate

    summary = searched(tmp_path, search, lucky)
    in_search = max(summary["trials"], key=lambda t: t["values"][0])["number"]
    assert len(summary["confirmed"]) == 3
    assert in_search in {c["number"] for c in summary["confirmed"]}
    assert summary["best"] != in_search
    assert [c["seeds"] for c in summary["confirmed"]] == [[1, 2]] * 3
    means = [c["mean"] for c in summary["confirmed"]]
    assert means == sorted(means, reverse=True)
    assert summary["train_seconds"] == 2.0 * (10 + 6)
    with owned_study(tmp_path / "small", search) as study:
        assert unconfirmed(study) == []
        assert set(candidates(study)) == {c["number"] for c in summary["confirmed"]}


def test_pages_and_plots(tmp_path: Path) -> None:
    search = small_search(tmp_path, sampler={"name": "random"}, budget={"trials": 12})
    summary = searched(tmp_path, search, by_rate)
    paths = write_report(load_trials(tmp_path / "small", "small"), summary, tmp_path / "small")
    assert [p.name for p in paths] == ["report.html", "study.png"]
    page = paths[0].read_text()
    for title in ("What mattered", "Each parameter", "Expected best after n trials", "again with fresh seeds"):
        assert title in page
    assert paths[1].stat().st_size > 10_000


def test_a_front(tmp_path: Path) -> None:
    space = {"method.density": {"kind": "float", "low": 0.01, "high": 0.5, "log": True}}
    wanted = [{"metric": "val_accuracy_last"}, {"metric": "density"}]
    search = small_search(
        tmp_path, space=space, objectives=wanted, sampler={"name": "nsga2", "startup": 4}, budget={"trials": 8}
    )
    summary = searched(tmp_path, search, lambda config, seed: 1 - math.exp(-10 * config.method.density))
    assert summary["best"] is None
    assert summary["confirmed"] == []
    assert len(summary["front"]) == 8
    assert len(list((tmp_path / "small/front").glob("trial-*.yaml"))) == 8
    paths = write_report(load_trials(tmp_path / "small", "small"), summary, tmp_path / "small")
    assert "Pareto front" in paths[0].read_text()


def test_methods_are_compared_on_the_same_terms(tmp_path: Path) -> None:
    arms = {"rigl": {}, "set": {"set": {"method": {"name": "set"}}}}
    path = str(write_search(tmp_path, methods=arms, sampler={"name": "random"}, budget={"trials": 6}))
    rigl, other = load_search(path)
    searched(tmp_path / "studies", rigl, by_rate)
    more = load_search(path, methods=["set"])[0]
    more = with_budget(more, 9, None)
    searched(tmp_path / "studies", more, lambda config, seed: by_rate(config, seed) / 2)
    found = equalise([rigl, other], tmp_path / "studies", console_for(False))
    assert [s.file.budget.trials for s in found] == [9, 9]
    summaries = [
        searched(tmp_path / "studies", found[0], by_rate),
        searched(tmp_path / "studies", found[1], lambda config, seed: by_rate(config, seed) / 2),
    ]
    best, second = compare(summaries)
    assert (best["study"], second["study"]) == ("small-rigl", "small-set")
    assert best["trials"] == second["trials"] == 9
    assert best["expected_best"][8] == pytest.approx(2 * second["expected_best"][8], rel=0.5)
    assert best["expected_best"] == sorted(best["expected_best"])
    with pytest.raises(HarnessError, match="--equal-budget compares methods"):
        equalise([rigl], tmp_path / "studies", console_for(False))


def test_from_small_to_large(tmp_path: Path) -> None:
    """The best of an earlier study are tried first; where ranks agree the correlation is 1, turned round it is -1."""
    source = small_search(tmp_path, sampler={"name": "random"}, budget={"trials": 12})
    searched(tmp_path, source, by_rate)
    warm = proposals_from(tmp_path, "small", 5)
    assert [w["from_value"] for w in warm] == sorted((w["from_value"] for w in warm), reverse=True)
    for name, sign in (("same", 1), ("turned", -1)):
        path = write_search(tmp_path, name, sampler={"name": "random"}, budget={"trials": 7})
        (large,) = load_search(str(path))
        searched(tmp_path, large, lambda config, seed, sign=sign: 0.5 + sign * by_rate(config, seed) / 3, warm)
        study = load_trials(tmp_path / name, name)
        assert [t.params for t in study.trials[:5]] == [w["params"] for w in warm]
        found = transfer(study)
        assert found is not None
        assert (found["n"], found["spearman"]) == (5, pytest.approx(sign))
    assert transfer(load_trials(tmp_path / "small", "small")) is None
