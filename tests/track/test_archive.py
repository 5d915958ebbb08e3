from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from harness.board.rows import rows_from_results
from harness.errors import HarnessError
from harness.track.archive import MANIFEST, export_records, import_records
from harness.track.record import Record, all_results, read_events, write_result
from tests.board.made import result


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    for seed in range(3):
        made_run(root, seed, 0.9)
    study = root / "studies" / "a_study"
    (study / "runs" / "x-0").mkdir(parents=True)
    (study / "journal.log").write_text("{}\n")
    (study / "runs" / "x-0" / "record.jsonl").write_text('{"event": "start"}\n')
    (root / "stopped-0").mkdir()
    Record(root / "stopped-0").append("start")
    return root


def made_run(root: Path, seed: int, accuracy: float) -> Path:
    of = result("east", 0.01, seed, accuracy)
    folder = root / of["run_id"]
    folder.mkdir(parents=True)
    Record(folder).append("evaluation", step=1, val_accuracy=accuracy)
    (folder / "weights.safetensors").write_bytes(b"many")
    write_result(folder, of)
    return folder


def test_another_installation_has_the_same_board(runs: Path, tmp_path: Path) -> None:
    archive = tmp_path / "records.tar.xz"
    assert export_records(runs, archive, tensors=False) == (3, 1)
    other = tmp_path / "other"
    done = import_records(archive, other)
    assert (len(done.new), done.held) == (4, ())
    assert rows_from_results(all_results(other)) == rows_from_results(all_results(runs))
    (one, *_) = sorted(p for p in other.iterdir() if p.name.startswith("east"))
    assert list(read_events(one)) == list(read_events(runs / one.name))
    assert not (one / "weights.safetensors").exists()
    assert json.loads((one / "imported.json").read_text())["archive"] == "records.tar.xz"
    assert (other / "studies/a_study/runs/x-0/record.jsonl").exists()
    assert not (other / "stopped-0").exists(), "it has no result"
    assert [p.name for p in other.iterdir() if p.name.startswith(".")] == []


def test_importing_twice_is_importing_once(runs: Path, tmp_path: Path) -> None:
    archive = tmp_path / "records.tar.gz"
    export_records(runs, archive, tensors=True)
    import_records(archive, tmp_path / "other")
    again = import_records(archive, tmp_path / "other")
    assert (again.new, len(again.held)) == ((), 4)
    assert (tmp_path / "other" / again.held[0] / "weights.safetensors").read_bytes() == b"many"


def test_where_it_came_from_is_kept_over_two_steps(runs: Path, tmp_path: Path) -> None:
    export_records(runs, tmp_path / "one.tar.gz", tensors=False)
    import_records(tmp_path / "one.tar.gz", tmp_path / "other")
    export_records(tmp_path / "other", tmp_path / "two.tar.gz", tensors=False)
    done = import_records(tmp_path / "two.tar.gz", tmp_path / "third")
    origin = json.loads((tmp_path / "third" / done.new[0] / "imported.json").read_text())
    assert (origin["archive"], origin["before"]["archive"]) == ("two.tar.gz", "one.tar.gz")


def test_a_run_with_another_result_stops_all_of_it(runs: Path, tmp_path: Path) -> None:
    export_records(runs, tmp_path / "a.tar.gz", tensors=False)
    other = tmp_path / "other"
    made_run(other, 1, 0.5)
    with pytest.raises(
        HarnessError, match=r"1 runs are in .* with other results, nothing was imported: east0.01-digits-1"
    ):
        import_records(tmp_path / "a.tar.gz", other)
    assert [p.name for p in other.iterdir()] == ["east0.01-digits-1"]


def repacked(archive: Path, change: Any) -> Path:
    """The archive with its files as `change(name, content)` returns them; None leaves one out."""
    path = archive.with_name("changed.tar.gz")
    with tarfile.open(archive) as old, tarfile.open(path, "w:gz") as new:
        for entry in old:
            held = old.extractfile(entry)
            content = change(entry.name, held.read() if held else b"")
            if content is not None:
                entry.size = len(content)
                new.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, c: c.replace(b"0.9", b"1.0") if n.endswith("result.json") else c, "was changed after it was packed"),
        (lambda n, c: None if n.endswith("record.jsonl") else c, "are missing; nothing was imported"),
        (lambda n, c: c.replace(b'"format": 1', b'"format": 9') if n == MANIFEST else c, "reads format 1"),
        (
            lambda n, c: c.replace(b'"schema": 2', b'"schema": 9') if n == MANIFEST else c,
            "schema 9; this harness reads",
        ),
        (lambda n, c: None if n == MANIFEST else c, "is no whole archive of `harness export`"),
    ],
)
def test_what_is_not_whole_is_refused(runs: Path, tmp_path: Path, change: Any, message: str) -> None:
    export_records(runs, tmp_path / "a.tar.gz", tensors=False)
    with pytest.raises(HarnessError, match=message):
        import_records(repacked(tmp_path / "a.tar.gz", change), tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_files_that_are_not_in_the_manifest_never_land(runs: Path, tmp_path: Path) -> None:
    export_records(runs, tmp_path / "a.tar.gz", tensors=False)
    path = tmp_path / "evil.tar.gz"
    with tarfile.open(tmp_path / "a.tar.gz") as old, tarfile.open(path, "w:gz") as new:
        for entry in old:
            new.addfile(entry, old.extractfile(entry))
        outside = tarfile.TarInfo("../outside")
        new.addfile(outside, io.BytesIO(b""))
    with pytest.raises(HarnessError, match="is not in its manifest"):
        import_records(path, tmp_path / "other")
    assert not (tmp_path / "outside").exists()


def test_cut_off_in_the_middle(runs: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    export_records(runs, archive, tensors=False)
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(HarnessError, match="is no whole archive"):
        import_records(archive, tmp_path / "other")
    with pytest.raises(HarnessError, match="no finished run"):
        export_records(tmp_path / "other", archive, tensors=False)
