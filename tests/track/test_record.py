from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import build_config, setting_label, setting_of
from harness.errors import HarnessError
from harness.track.record import all_results, read_result, unfinished, upgraded, write_result
from tests.board.made import result


def test_a_setting_is_all_but_the_method() -> None:
    plain = {"schedule": {"epochs": 3}, "optimizer": {"lr": 0.2}}
    one = build_config({**plain, "method": {"name": "rigl", "density": 0.1}}, "test")
    other = build_config({**plain, "method": {"name": "set", "density": 0.01}}, "test")
    longer = build_config({**plain, "schedule": {"epochs": 4}, "method": {"name": "rigl", "density": 0.1}}, "test")
    elsewhere = build_config({**plain, "engine": {"workers": 2}, "method": {"name": "rigl", "density": 0.1}}, "test")
    assert setting_of(one) == setting_of(other) == setting_of(elsewhere)
    assert setting_of(one) != setting_of(longer)
    assert setting_label(one) == "3 epochs of sgd, lr 0.2 (step), batch 128, weight decay 0.0001"


def test_a_result_of_the_first_schema_gets_its_setting_from_its_configuration(tmp_path: Path) -> None:
    of = {k: v for k, v in result("rigl", 0.1, 0, 0.9).items() if k not in ("schema", "setting", "setting_label")}
    write_result(tmp_path, of)
    held = read_result(tmp_path)
    assert held is not None
    assert (held["schema"], held["setting"], held["setting_label"]) == (2, "", "setting not recorded")
    assert held["n_test"] == 299
    (tmp_path / "config.yaml").write_text("schedule: {epochs: 3}\n")
    held = read_result(tmp_path)
    assert held is not None
    assert held["setting"] == setting_of(build_config({"schedule": {"epochs": 3}}, "test"))
    (tmp_path / "config.yaml").write_text("an_option_that_is_gone: 1\n")
    assert (read_result(tmp_path) or {})["setting"] == ""


def test_a_result_of_a_later_schema_is_named() -> None:
    with pytest.raises(HarnessError, match="run x-1 has schema 3, this harness reads 2: update it"):
        upgraded({"run_id": "x-1", "schema": 3})


def test_a_result_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "x-0").mkdir()
    (tmp_path / "x-0" / "result.json").write_text('{"status": "do')
    with pytest.raises(HarnessError, match=r"x-0/result\.json is no result"):
        all_results(tmp_path)


def test_runs_without_a_result(tmp_path: Path) -> None:
    for name in ("a-0", "b-0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.jsonl").touch()
    write_result(tmp_path / "b-0", result("rigl", 0.1, 0, 0.9))
    assert unfinished(tmp_path) == ["a-0"]
