"""Records against a real MLflow store."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.board.rows import rows_from_results
from harness.board.source import Records, Server
from harness.config import build_config
from harness.track.mirror import BackgroundMirror, Mirror, default_uri
from harness.track.query import TrackedRuns
from harness.track.record import Record, all_results, read_events, read_result
from harness.train.run import execute

PLAIN: dict[str, Any] = {
    "model": {"name": "lenet_300_100"},
    "data": {"name": "digits", "batch_size": 128},
    "schedule": {"epochs": 3},
    "engine": {"device": "cpu"},
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three finished runs: dense, and static at two densities."""
    folder = tmp_path_factory.mktemp("runs")
    for method in ({"name": "dense"}, {"name": "static", "density": 0.1}, {"name": "static", "density": 0.02}):
        list(execute(build_config({**PLAIN, "method": method}, "test"), 0, folder))
    return folder


@pytest.fixture(scope="module")
def mirror(out: Path) -> Mirror:
    mirror = Mirror(default_uri(out), "sparsity-harness", out)
    mirror.connect()
    return mirror


def run_dirs(out: Path) -> list[Path]:
    return sorted(p.parent for p in out.glob("*/record.jsonl"))


def every_run(mirror: Mirror) -> list[Any]:
    return list(mirror._client.search_runs([mirror.experiment_id]))


def test_replaying_adds_nothing(out: Path, mirror: Mirror) -> None:
    for _ in range(2):
        fresh = Mirror(mirror.uri, "sparsity-harness", out)  # forgets what the first knew
        for run_dir in run_dirs(out):
            fresh.sync(run_dir)
        fresh.sync_curves(all_results(out))
    runs = every_run(mirror)
    assert sorted(r.data.tags["harness.kind"] for r in runs) == ["curve", "curve", "index", "run", "run", "run"]
    assert {r.info.status for r in runs} == {"FINISHED"}
    for run in runs:
        if run.data.tags["harness.kind"] == "run":
            history = mirror._client.get_metric_history(run.info.run_id, "val_accuracy")
            assert [point.step for point in history] == [10, 20, 30]
            assert run.data.params["schedule.epochs"] == "3.0"
            assert {a.path for a in mirror._client.list_artifacts(run.info.run_id)} >= {"config.yaml", "result.json"}


def test_a_run_cut_off_in_the_middle_is_carried_on(out: Path, tmp_path: Path) -> None:
    """The tracking server saw two evaluations, then the run was killed, rewound to the first, and finished."""
    source = run_dirs(out)[0]
    lines = (source / "record.jsonl").read_text().splitlines(keepends=True)
    run_dir = tmp_path / source.name
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text((source / "config.yaml").read_text())
    record = run_dir / "record.jsonl"
    uri = default_uri(tmp_path)
    record.write_text("".join(lines[:3]) + '{"event": "evalua')
    Mirror(uri, "x", tmp_path).sync(run_dir)
    record.write_text("".join(lines[:2]))
    Mirror(uri, "x", tmp_path).sync(run_dir)
    record.write_text("".join(lines))
    (run_dir / "result.json").write_text((source / "result.json").read_text())
    last = Mirror(uri, "x", tmp_path)
    last.sync(run_dir)
    (run,) = last._search("tags.`harness.kind` = 'run'")
    assert run.info.status == "FINISHED"
    assert [p.step for p in last._client.get_metric_history(run.info.run_id, "val_accuracy")] == [10, 20, 30]


def test_the_curve_is_accuracy_at_ten_thousand_times_sparsity(out: Path, mirror: Mirror) -> None:
    mirror.sync_curves(all_results(out))
    (curve,) = mirror._search("tags.method = 'static' and tags.`harness.kind` = 'curve'")
    points = {p.step: p.value for p in mirror._client.get_metric_history(curve.info.run_id, "accuracy")}
    expected = {round(1e4 * (1 - r["density"])): r["test_accuracy_last"] for r in all_results(out) if r["density"] < 1}
    assert points == expected
    assert sorted(points) == [9000, 9800]


def test_dense_is_a_level_across_the_sparsities_of_the_others(out: Path, mirror: Mirror) -> None:
    mirror.sync_curves(all_results(out))
    (curve,) = mirror._search("tags.method = 'dense' and tags.`harness.kind` = 'curve'")
    (dense,) = [r["test_accuracy_last"] for r in all_results(out) if r["method"] == "dense"]
    points = mirror._client.get_metric_history(curve.info.run_id, "accuracy")
    assert {p.step: p.value for p in points} == {9000: dense, 9800: dense}


def test_a_curve_that_changes_is_replaced_whole(out: Path, mirror: Mirror) -> None:
    results = all_results(out)
    better = [{**r, "test_accuracy_last": 1.0, "seed": 1} for r in results if r["method"] == "static"]
    mirror.sync_curves(results + better)
    (curve,) = mirror._search("tags.method = 'static' and tags.`harness.kind` = 'curve'")
    points = mirror._client.get_metric_history(curve.info.run_id, "accuracy")
    assert len(points) == 2
    assert all(p.value > 0.5 for p in points)
    mirror.sync_curves(results)


def test_the_board_needs_the_tracking_server_alone(out: Path, mirror: Mirror) -> None:
    for run_dir in run_dirs(out):
        mirror.sync(run_dir)
    assert rows_from_results(TrackedRuns(mirror.uri).results()) == rows_from_results(all_results(out))


def test_a_page_needs_the_tracking_server_alone(out: Path, mirror: Mirror, tmp_path: Path) -> None:
    for run_dir in run_dirs(out):
        mirror.sync(run_dir)
    here, there = Records(out), Server(mirror.uri, tmp_path)
    for run_dir in run_dirs(out):
        files = there.files(run_dir.name)
        assert files is not None
        assert read_result(files) == read_result(run_dir)
        assert (files / "config.yaml").read_text() == (run_dir / "config.yaml").read_text()
        assert list(there.events(run_dir.name)) == list(here.events(run_dir.name))
    there.most_fetched = 0
    assert there.files(run_dirs(out)[0].name) is not None, "what was fetched stays"
    assert there.files("another-0") is None


def test_what_is_deleted_there_is_gone_from_the_board(out: Path, tmp_path: Path) -> None:
    first = Mirror(default_uri(tmp_path), "sparsity-harness", tmp_path)
    for run_dir in run_dirs(out):
        first.sync(run_dir)
    (gone,) = first._search("tags.density = '0.02'")
    first._client.delete_run(gone.info.run_id)
    held = TrackedRuns(first.uri)
    assert sorted(r["density"] for r in held.results()) == [0.1, 1.0]
    second = Mirror(default_uri(tmp_path), "sparsity-harness", tmp_path)
    for run_dir in run_dirs(out):
        second.sync(run_dir)  # sent again, by another writer
    assert sorted(r["density"] for r in held.results()) == [0.02, 0.1, 1.0]


def test_an_index_that_is_missing_or_lacks_runs(out: Path, tmp_path: Path) -> None:
    """As servers have it that an earlier version wrote to."""
    mirror = Mirror(default_uri(tmp_path), "sparsity-harness", tmp_path)
    for run_dir in run_dirs(out):
        mirror.sync(run_dir)
    (index,) = mirror._search("tags.`harness.kind` = 'index'")
    mirror._client.delete_run(index.info.run_id)
    everything = rows_from_results(all_results(out))
    assert rows_from_results(TrackedRuns(mirror.uri).results()) == everything
    again = Mirror(mirror.uri, "sparsity-harness", tmp_path)
    again.connect()
    again.index.add(all_results(out)[0])
    assert len(TrackedRuns(mirror.uri).results()) == 1
    closing = BackgroundMirror(mirror.uri, "sparsity-harness", tmp_path, run_dirs(out))
    assert closing.close(all_results(out), complete=True), closing.failure
    assert rows_from_results(TrackedRuns(mirror.uri).results()) == everything


def test_curves_are_of_all_runs_on_the_server(out: Path, tmp_path: Path) -> None:
    """Two folders of runs, one server."""
    uri, results = default_uri(tmp_path), all_results(out)
    for result in results:
        one = [folder for folder in run_dirs(out) if folder.name == result["run_id"]]
        closing = BackgroundMirror(uri, "sparsity-harness", tmp_path, one)
        assert closing.close([result]), closing.failure
    reader = Mirror(uri, "sparsity-harness", tmp_path)
    reader.connect()
    (curve,) = reader._search("tags.method = 'static' and tags.`harness.kind` = 'curve'")
    points = reader._client.get_metric_history(curve.info.run_id, "accuracy")
    assert sorted(p.step for p in points) == [9000, 9800]


def test_many_results_are_several_files_and_the_newest_of_a_run_counts(tmp_path: Path) -> None:
    mirror = Mirror(default_uri(tmp_path), "x", tmp_path)
    mirror.connect()
    mirror.index.add(*({"run_id": f"r{i}", "value": 0} for i in range(450)))
    other = Mirror(mirror.uri, "x", tmp_path)
    other.connect()
    other.index.add({"run_id": "r7", "value": 1, "layers": [1, 2, 3]})
    mirror.index.add({"run_id": "r8", "value": 2})
    held = mirror.index.read()
    assert held is not None
    assert len(held) == 450
    assert [held[f"r{i}"]["value"] for i in (6, 7, 8)] == [0, 1, 2]
    assert "layers" not in held["r7"]
    (index,) = mirror._search("tags.`harness.kind` = 'index'")
    assert len(mirror._client.list_artifacts(index.info.run_id, "results")) == 4


def test_a_clock_that_goes_back_brings_no_failure_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's clock is replaced by one that loses an hour at every look."""
    mirror = Mirror(default_uri(tmp_path), "x", tmp_path)
    mirror.connect()
    hours = iter(range(10_000_000_000, 0, -3600))
    monkeypatch.setattr("time.time", lambda: float(next(hours)))
    for status in ("failed", "done"):
        mirror.index.add({"run_id": "r", "status": status})
    held = mirror.index.read()
    assert held is not None
    assert held["r"]["status"] == "done"


def test_runs_that_go_on_there(out: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / run_dirs(out)[0].name
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text((run_dirs(out)[0] / "config.yaml").read_text())
    (run_dir / "record.jsonl").write_text((run_dirs(out)[0] / "record.jsonl").read_text().splitlines()[0] + "\n")
    uri = default_uri(tmp_path)
    assert TrackedRuns(uri).unfinished() == []
    Mirror(uri, "sparsity-harness", tmp_path).sync(run_dir)
    assert TrackedRuns(uri).unfinished() == [run_dir.name]


@pytest.mark.parametrize("patience_s", [0.0, 0.3, 0.6])
def test_killed_while_the_database_is_made(out: Path, tmp_path: Path, patience_s: float) -> None:
    """MLflow makes its tables one after another; the file must not be there before all are."""
    words = (
        f"from harness.track.mirror import *; Mirror({default_uri(tmp_path)!r}, 'x', Path({str(tmp_path)!r})).connect()"
    )
    process = subprocess.Popen([sys.executable, "-c", words])
    while not list(tmp_path.glob(".mlflow*")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(patience_s)
    process.kill()
    process.wait()
    assert patience_s or not (tmp_path / "mlflow.db").exists(), "the tables cannot all be there at once"
    fresh = Mirror(default_uri(tmp_path), "sparsity-harness", tmp_path)
    fresh.sync(run_dirs(out)[0])
    assert len(every_run(fresh)) == 2


def test_a_server_that_is_away_is_one_warning(tmp_path: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mirror = BackgroundMirror("http://127.0.0.1:9", "x", tmp_path, run_dirs(out))
    assert mirror.close() is False
    assert capfd.readouterr().err.count("does not answer") == 1


def test_a_record_is_rewound_to_its_checkpoint(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.append("start")
    size = record.size()
    record.append("evaluation", step=1)
    record.rewind(size)
    assert [e["event"] for e in read_events(tmp_path)] == ["start"]
