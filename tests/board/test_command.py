"""`harness board` as a user runs it, over made-up records."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.track.record import write_result
from tests.board.made import result, results


def harness(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *words], capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "200", **env},
    )  # fmt: skip


def wrote(root: Path, *groups: list[dict[str, object]]) -> str:
    for group in groups:
        for of in group:
            folder = root / str(of["run_id"])
            folder.mkdir(parents=True)
            write_result(folder, of)
    return str(root)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("runs")
    mnist = {"data": "mnist", "model": "lenet_300_100", "setting": "m", "setting_label": "20 epochs of sgd"}
    going_on = root / "goes-0"
    going_on.mkdir()
    (going_on / "record.jsonl").touch()
    return wrote(
        root,
        results("dense", 1.0, {0: 0.97, 1: 0.96, 2: 0.98}),
        results("rigl", 0.01, {0: 0.90, 1: 0.92, 2: 0.95}),
        results("set", 0.01, {0: 0.80, 1: math.nan, 2: 0.15}),
        results("dst", 0.0252, {0: 0.977, 1: 0.978}, fingerprint="d", emergent=True, **mnist),
        results("dense", 1.0, {0: 0.981, 1: 0.982}, fingerprint="e", **mnist),
    )


def test_tables_name_their_convention_and_what_a_reader_must_know(out: str) -> None:
    said = harness("board", "--out", out).stdout
    assert "digits, net; 10,000 maskable weights; 12 epochs of sgd" in said
    assert "mnist, lenet_300_100; 10,000 maskable weights; 20 epochs of sgd" in said
    assert "failed: set at density 0.01, seed 1: its test accuracy is nan, no number" in said
    assert "set at density 0.01: 1 of 2 seeds collapsed" in said
    assert "2 of 3" in said
    assert "1 runs have no result yet, or were stopped: goes-0" in said
    assert "dst [1]" in said
    assert "[1] published: Liu et al. 2020 (P)" in said
    assert (Path(out) / "board").exists()
    bare = harness("board", "--out", out, "--no-claims", "--wide").stdout
    assert "published" not in bare
    assert "bootstrap" in bare


def test_rows_are_chosen(out: str) -> None:
    rows = json.loads(harness("board", "--out", out, "--density", "0.01", "--data", "digits", "--json").stdout)
    assert [r["method"] for r in rows] == ["dense", "rigl", "set"]
    assert rows[2]["seeds"] == [0, 2]
    rows = json.loads(harness("board", "--out", out, "--method", "rigl", "--method", "dst", "--json").stdout)
    assert [r["method"] for r in rows] == ["rigl", "dst"]
    none = harness("board", "--out", out, "--density", "0.5", "--method", "rigl")
    assert none.returncode == 2
    assert "none of the 5 rows is left: --data digits, mnist; --method dense, dst, rigl, set; --density" in none.stderr


def test_choosing_rows_changes_nothing_that_is_said_of_them(tmp_path: Path) -> None:
    """Rank, best, gaps and their correction are those of the whole table."""
    root = wrote(
        tmp_path,
        results("rigl", 0.01, {0: 0.90, 1: 0.92, 2: 0.95}),
        results("set", 0.01, {0: 0.50, 1: 0.53, 2: 0.54}),
        results("static", 0.01, {0: 0.10, 1: 0.12, 2: 0.11}),
    )
    for words in ((), ("--method", "set", "--method", "static"), ("--method", "static")):
        assert harness("board", "--out", root, *words, "--export", str(tmp_path / "t.csv")).returncode == 0
        rows = {r["method"]: r for r in csv.DictReader((tmp_path / "t.csv").read_text().splitlines())}
        assert (rows["static"]["rank"], rows["static"]["best"]) == ("3", "False")
        assert float(rows["static"]["to_rigl"]) == pytest.approx(-2.44 / 3)
        assert len(rows) == (len(words) // 2 or 3)


def test_a_page_and_tables_are_written(out: str, tmp_path: Path) -> None:
    done = harness(
        "board", "--out", out, "--html", str(tmp_path / "site"), "--density", "0.01",
        "--export", str(tmp_path / "t.tex"), "--export", str(tmp_path / "t.csv"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"page: {tmp_path}/site/index.html" in done.stdout
    assert r"\begin{table}" in (tmp_path / "t.tex").read_text()
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 1 + 4
    assert len(list((tmp_path / "site" / "rows").iterdir())) == 4
    bad = harness("board", "--out", out, "--export", str(tmp_path / "t.xls"))
    assert (bad.returncode, "no format '.xls'" in bad.stderr) == (2, True)


def test_boards_too_long_to_print(tmp_path: Path) -> None:
    groups = [results(f"m{i}", 0.01 + i / 1000, {0: 0.5}) for i in range(401)]
    said = harness("board", "--out", wrote(tmp_path, *groups))
    assert "401 rows of 401 runs" in said.stdout
    assert "m17" not in said.stdout
    assert "m17" in harness("board", "--out", str(tmp_path), "--method", "m17").stdout


def test_one_run_with_two_results(tmp_path: Path) -> None:
    one = result("rigl", 0.01, 0, 0.9)
    root = wrote(tmp_path, [one])
    (tmp_path / "copy").mkdir()
    write_result(tmp_path / "copy", one)
    assert "90.00" in harness("board", "--out", root).stdout, "the same twice is once"
    write_result(tmp_path / "copy", {**one, "test_accuracy_last": 0.5})
    refused = harness("board", "--out", root)
    assert refused.returncode == 2
    assert "two different results of run rigl0.01-digits-0 (rigl, seed 0)" in refused.stderr


def test_nothing_here(tmp_path: Path) -> None:
    for words in (("board", "--out", str(tmp_path)), ("export", str(tmp_path / "a.tar.gz"), "--out", str(tmp_path))):
        none = harness(*words)
        assert none.returncode == 2
        assert none.stderr.startswith("harness: no ")
    for words in (("import", str(tmp_path / "gone.tar.gz")), ("export", "a.zip")):
        assert harness(*words, "--out", str(tmp_path)).returncode == 2


def test_export_and_import(out: str, tmp_path: Path) -> None:
    archive = str(tmp_path / "a.tar.gz")
    assert "13 runs, 0.0" in harness("export", archive, "--out", out).stdout
    assert "13 runs and searches came into" in harness("import", archive, "--out", str(tmp_path / "new")).stdout
    assert "0 runs and searches came into" in harness("import", archive, "--out", str(tmp_path / "new")).stdout
