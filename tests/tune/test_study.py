"""The study alone, without Ray: training is pretended (tests/tune/studies.py), journal and records are real files."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from harness.errors import HarnessError
from harness.track.record import STOP_NOTE, read_events, read_result, write_result
from harness.tune.search import Search, with_budget
from harness.tune.study import JOURNAL, Proposal, load_trials, owned_study
from tests.tune.studies import begin, made_up, pretend, reach, small_search


def worth(proposal: Proposal) -> float:
    config = proposal.cells[0].config
    return math.exp(-(math.log10(config.optimizer.lr / 0.2) ** 2)) * config.method.model_dump()["drop_fraction"]


def run_to_the_end(folder: Path, search: Search, die: random.Random | None = None) -> list[Any]:
    """One trial after another; with `die`, the owner is lost at random moments and another takes over."""
    while True:
        with owned_study(folder, search) as study:
            while True:
                if die and die.random() < 0.3:
                    break  # before asking
                proposal = study.next()
                if proposal is None:
                    return [(t.number, t.state, t.params, t.values) for t in study.trials()]
                if die and die.random() < 0.3:
                    break  # asked, not trained
                pretend(study, proposal, worth(proposal))
                if die and die.random() < 0.3:
                    break  # trained, not told
                study.finish(proposal.number)
                study.running.clear()


SAMPLERS = ["tpe", "random", "cmaes", "nsga2", "gp", "qmc"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_owners_that_die_change_nothing(sampler: str, tmp_path: Path) -> None:
    search = small_search(tmp_path, sampler={"name": sampler, "startup": 4}, budget={"trials": 12})
    whole = run_to_the_end(tmp_path / "whole", search)
    parts = run_to_the_end(tmp_path / "parts", search, random.Random(1))
    assert whole == parts
    assert [number for number, *_ in whole] == list(range(12))
    assert all(state == TrialState.COMPLETE for _, state, *_ in whole)
    if sampler not in ("nsga2", "gp"):  # the first lets the fittest live on, the second may ask twice for a bound
        assert len({params["optimizer.lr"] for _, _, params, _ in whole}) == 12


def test_a_sampler_that_learns_finds_what_is_better(tmp_path: Path) -> None:
    trials = run_to_the_end(tmp_path / "s", small_search(tmp_path, budget={"trials": 40}))
    values = [values[0] for *_, values in trials]
    assert sum(values[30:]) / 10 > 1.2 * sum(values[:10]) / 10


def test_a_grid_is_tried_once(tmp_path: Path) -> None:
    space = {
        "optimizer.lr": {"kind": "float", "low": 0.1, "high": 0.3, "step": 0.1},
        "method.style": {"kind": "choice", "of": ["append", "replace"]},
    }
    search = small_search(tmp_path, space=space, sampler={"name": "grid"}, budget={"trials": 50})
    with owned_study(tmp_path / "s", search) as study:
        found = []
        while (proposal := study.next()) is not None:
            pretend(study, proposal, 0.5)
            study.finish(proposal.number)
            config = proposal.cells[0].config
            found.append((round(config.optimizer.lr, 3), config.method.model_dump()["style"]))
    assert sorted(found) == sorted((lr, style) for lr in (0.1, 0.2, 0.3) for style in ("append", "replace"))


def test_a_line_cut_off_in_the_middle_is_taken_back(tmp_path: Path) -> None:
    search = small_search(tmp_path, budget={"trials": 3})
    with owned_study(tmp_path / "s", search) as study:
        first = study.next()
        assert first is not None
    journal = tmp_path / "s" / JOURNAL
    whole = journal.read_bytes()
    (tmp_path / "s" / f"{JOURNAL}.lock").symlink_to(journal)  # what a process killed while writing leaves
    for cut in (1, 7, 40):
        journal.write_bytes(whole + whole.splitlines()[-1][:cut])
        with owned_study(tmp_path / "s", search) as study:
            again = study.next()
            assert again is not None
            assert (again.number, again.cells) == (first.number, first.cells)
        assert journal.read_bytes().startswith(whole)


def test_two_owners(tmp_path: Path) -> None:
    search = small_search(tmp_path)
    with (
        owned_study(tmp_path / "s", search),
        pytest.raises(HarnessError, match="another process is running the study small"),
        owned_study(tmp_path / "s", search),
    ):
        pass


def test_another_search_under_the_same_name(tmp_path: Path) -> None:
    with owned_study(tmp_path / "s", small_search(tmp_path)):
        pass
    other = small_search(tmp_path, set={"optimizer": {"lr": 0.5}}, sampler={"seed": 3})
    with pytest.raises(HarnessError) as error, owned_study(tmp_path / "s", other):
        pass
    assert "begun with another search" in str(error.value)
    assert "base.optimizer.lr: 0.3 before, 0.5 now" in str(error.value)
    assert "sampler.seed: 0 before, 3 now" in str(error.value)


def test_more_trials_later(tmp_path: Path) -> None:
    search = small_search(tmp_path, budget={"trials": 2})
    assert len(run_to_the_end(tmp_path / "s", search)) == 2
    assert len(run_to_the_end(tmp_path / "s", with_budget(search, 5, None))) == 5
    assert len(run_to_the_end(tmp_path / "s", search)) == 5


def test_other_ends(tmp_path: Path) -> None:
    by_flops = small_search(tmp_path, budget={"train_flops": 3.5e9})  # a trial costs 1e9
    assert len(run_to_the_end(tmp_path / "flops", by_flops)) == 4
    by_hours = small_search(tmp_path, budget={"hours": 1.0})
    with owned_study(tmp_path / "hours", by_hours) as study:
        assert study.next() is not None
        study.optuna.set_user_attr("seconds", 3601.0)
    with owned_study(tmp_path / "hours", by_hours) as study:
        unfinished = study.next()  # what is begun is ended
        assert unfinished is not None
        pretend(study, unfinished, 0.5)
        study.finish(unfinished.number)
        assert study.next() is None
        assert study.exhausted


def test_the_mean_over_seeds_and_each_of_them(tmp_path: Path) -> None:
    with owned_study(tmp_path / "s", small_search(tmp_path, seeds=[3, 4])) as study:
        proposal = study.next()
        assert proposal is not None
        assert [cell.seed for cell in proposal.cells] == [3, 4]
        for cell, value in zip(proposal.cells, (0.6, 0.8), strict=True):
            pretend(study, Proposal(0, (cell,)), value)
        study.finish(0)
        (trial,) = study.trials()
        assert trial.values == [0.7]
        assert trial.user_attrs["by_seed.val_accuracy_last"] == [0.6, 0.8]
        assert trial.user_attrs["train_seconds"] == 4.0


def test_a_failed_run_is_a_failed_trial_with_its_reason(tmp_path: Path) -> None:
    with owned_study(tmp_path / "s", small_search(tmp_path)) as study:
        proposal = study.next()
        assert proposal is not None
        run_dir = study.runs / proposal.cells[0].run_id
        begin(run_dir)
        write_result(run_dir, {**made_up(run_dir), "status": "diverged", "reason": "the loss is not finite at step 9"})
        study.finish(0)
        assert study.trials()[0].state == TrialState.FAIL
        assert study.trials()[0].user_attrs["reason"] == "the loss is not finite at step 9"
        assert list(read_events(run_dir))[-1]["event"] == "end"
        following = study.next()
        assert following is not None
        assert following.number == 1


def test_the_same_run_is_not_trained_twice_at_once(tmp_path: Path) -> None:
    space = {"method.style": {"kind": "choice", "of": ["append"]}}
    with owned_study(tmp_path / "s", small_search(tmp_path, space=space, budget={"trials": 2})) as study:
        first = study.next()
        assert first is not None
        assert study.next() is None
        assert not study.exhausted
        pretend(study, first, 0.5)
        study.finish(first.number)
        second = study.next()
        assert second is not None
        assert second.cells == first.cells
        study.finish(second.number)  # its result is there
        assert [t.values for t in study.trials()] == [[0.5], [0.5]]


def test_pruning_reads_the_record_and_asks_the_run_to_stop(tmp_path: Path) -> None:
    search = small_search(tmp_path, pruner={"name": "median", "startup": 1, "first_step": 10})
    folder = tmp_path / "s"
    with owned_study(folder, search) as study:
        good = study.next()
        assert good is not None
        run_dir = study.runs / good.cells[0].run_id
        begin(run_dir)
        reach(run_dir, {5: 0.2, 10: 0.5, 20: 0.7}, 30)
        study.follow(0)
        study.follow(0)  # twice is once
        pretend(study, good, 0.8, steps=30)
        study.finish(0)
        bad = study.next()
        assert bad is not None
        run_dir = study.runs / bad.cells[0].run_id
        begin(run_dir)
        reach(run_dir, {5: 0.1}, 30)
        study.follow(1)
        assert not (run_dir / STOP_NOTE).exists()
        reach(run_dir, {10: 0.4, 20: 0.9}, 30)  # it went on before anybody looked
        study.follow(1)
        assert (run_dir / STOP_NOTE).exists()
    with owned_study(folder, search) as study:  # and an owner that did not live to tell
        following = study.next()
        assert following is not None
        assert following.number == 2
        trial = study.trials()[1]
        assert trial.state == TrialState.PRUNED
        assert trial.intermediate_values == {5: 0.1, 10: 0.4}
        assert trial.user_attrs["train_seconds"] == 1.0
        result = read_result(run_dir)
        assert result is not None
        assert (result["status"], result["reason"]) == ("pruned", "pruned at step 10")
        assert study.trials()[0].intermediate_values == {5: 0.2, 10: 0.5, 20: 0.7}


@pytest.mark.parametrize("name", ["halving", "hyperband"])
def test_other_pruners_stop_some_of_many(name: str, tmp_path: Path) -> None:
    search = small_search(tmp_path, pruner={"name": name, "first_step": 10}, budget={"trials": 20})
    with owned_study(tmp_path / "s", search) as study:
        while (proposal := study.next()) is not None:
            run_dir = study.runs / proposal.cells[0].run_id
            begin(run_dir)
            for step in range(10, 91, 10):
                reach(run_dir, {step: step / 90 * worth(proposal)}, 90)
                study.follow(proposal.number)
                if (run_dir / STOP_NOTE).exists():
                    break
            else:
                pretend(study, proposal, worth(proposal), steps=90)
            study.finish(proposal.number)
        states = [t.state for t in study.trials()]
    assert 3 <= states.count(TrialState.PRUNED) <= 17
    assert states.count(TrialState.PRUNED) + states.count(TrialState.COMPLETE) == 20


def test_several_objectives(tmp_path: Path) -> None:
    space = {"method.density": {"kind": "float", "low": 0.01, "high": 0.5, "log": True}}
    wanted = [{"metric": "val_accuracy_last"}, {"metric": "density"}]
    search = small_search(tmp_path, space=space, objectives=wanted, sampler={"name": "nsga2", "startup": 4}, budget={"trials": 8})  # fmt: skip  # noqa: E501
    with owned_study(tmp_path / "s", search) as study:
        while (proposal := study.next()) is not None:
            density = proposal.cells[0].config.method.density
            pretend(study, proposal, 1 - math.exp(-10 * density), density=density)
            study.finish(proposal.number)
        assert [d.name for d in study.optuna.directions] == ["MAXIMIZE", "MINIMIZE"]
        assert len(study.optuna.best_trials) == 8  # each is better in one of the two


def test_what_is_tried_first(tmp_path: Path) -> None:
    first = {"optimizer.lr": 0.123, "method.drop_fraction": 0.5}
    search = small_search(tmp_path, start=[first], budget={"trials": 3})
    with owned_study(tmp_path / "s", search) as study:
        study.enqueue({"optimizer.lr": 0.456}, from_value=0.9)
        study.enqueue({"optimizer.lr": 0.456}, from_value=0.9)  # given again by the same command
        a, b, c = study.next(), study.next(), study.next()
        assert a is not None and b is not None and c is not None
        assert a.cells[0].config.optimizer.lr == 0.123
        assert b.cells[0].config.optimizer.lr == 0.456
        assert study.trials()[1].user_attrs["from_value"] == 0.9
        assert c.cells[0].config.optimizer.lr not in (0.123, 0.456)
        assert study.next() is None


def test_what_lies_outside_the_space_is_sampled_instead(tmp_path: Path) -> None:
    with owned_study(tmp_path / "s", small_search(tmp_path)) as study:
        study.enqueue({"optimizer.lr": 7.0, "method.drop_fraction": 0.25, "method.unknown": 3})
        proposal = study.next()
        assert proposal is not None
        assert 0.01 <= proposal.cells[0].config.optimizer.lr <= 1
        assert proposal.cells[0].config.method.model_dump()["drop_fraction"] == 0.25


def test_the_journal_is_an_ordinary_one(tmp_path: Path) -> None:
    run_to_the_end(tmp_path / "s", small_search(tmp_path, budget={"trials": 3}))
    assert isinstance(load_trials(tmp_path / "s", "small"), optuna.Study)
    with pytest.raises(HarnessError, match="no study in"):
        load_trials(tmp_path / "nowhere", "small")
