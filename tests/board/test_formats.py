from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.board.formats import as_csv, as_json, as_latex, as_markdown, in_format_of
from harness.board.ranking import judged
from harness.board.rows import rows_from_results
from harness.errors import HarnessError
from tests.board.made import results

ROWS = judged(rows_from_results([
    *results("dense", 1.0, {0: 0.97, 1: 0.96, 2: 0.98}),
    *results("east_a", 0.01, {0: 0.93, 1: 0.94, 2: 0.95}),
    *results("rigl", 0.01, {0: 0.80, 1: 0.81, 2: 0.83}),
    *results("rigl", 0.001, {0: 0.5}, setting="two", fingerprint="other"),
]))  # fmt: skip


def test_csv_holds_every_row_and_what_is_said_of_it() -> None:
    held = list(csv.DictReader(as_csv(ROWS).splitlines()))
    assert [(r["method"], r["best"], r["rank"]) for r in held] == [
        ("dense", "False", ""), ("east_a", "True", "1"), ("rigl", "False", "2"), ("rigl", "False", ""),
    ]  # fmt: skip
    assert float(held[1]["to_rigl"]) == pytest.approx(0.38 / 3)
    assert held[1]["accuracies"] == "0.93 0.94 0.95"
    assert held[3]["low"] == "", "one seed has no interval"


def test_markdown_and_latex_print_the_best_bold() -> None:
    lines = as_markdown(ROWS).splitlines()
    assert "| 99 | **east_a** | **94.00 ± 1.00** | 91.5 to 96.5 | 1 | -3.00* | +12.67* | 3 | 98-100 |" in lines
    assert sum("**" in line for line in lines if line.startswith("| ")) == 1
    latex = as_latex(ROWS)
    assert r"99 & \textbf{east\_a} & \textbf{94.00 $\pm$ 1.00} & 91.5 to 96.5 & 1 & -3.00$^*$" in latex
    assert latex.count(r"\toprule") == latex.count(r"\end{table}") == 2


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex: none is installed here")
def test_latex_compiles(tmp_path: Path) -> None:
    text = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + as_latex(ROWS) + r"\end{document}"
    (tmp_path / "t.tex").write_text(text)
    done = subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_json_has_a_table_per_convention() -> None:
    one, two = json.loads(as_json(ROWS))
    assert [len(one["rows"]), len(two["rows"])] == [3, 1]
    east = one["rows"][1]
    assert (east["rank"], east["best"], east["gaps"]["rigl"]["needed"]) == (1, True, 2)
    assert two["rows"][0]["interval"] is None


def test_the_suffix_chooses() -> None:
    assert in_format_of(Path("x.csv"), ROWS) == as_csv(ROWS)
    with pytest.raises(HarnessError, match=r"no format '.xls'; known: .csv, .md, .tex, .json"):
        in_format_of(Path("x.xls"), ROWS)
