from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from harness.board.curve import draw_curve, logit
from harness.board.ranking import judged
from harness.board.rows import rows_from_results
from harness.board.table import show_table
from tests.board.made import result

RESULTS = [
    result("rigl", 0.01, 1, 0.84),
    result("rigl", 0.01, 0, 0.80),
    result("east", 0.01, 0, 0.90),
    result("east", 0.01, 1, None),
    result("dense", 1.0, 0, 0.97),
    result("rigl", 0.001, 0, 0.5),
]


def test_rows_by_hand() -> None:
    rows = rows_from_results(RESULTS)
    assert [(r.method, r.density) for r in rows] == [("dense", 1), ("east", 0.01), ("rigl", 0.01), ("rigl", 0.001)]
    rigl = rows[2]
    assert rigl.mean == pytest.approx(0.82)
    assert rigl.std == pytest.approx(0.0282843, abs=1e-6)  # n - 1 in the denominator
    assert (rigl.seeds, rigl.n_active, rigl.n_nonzero) == ((0, 1), (100, 100), (100, 99))
    assert rows[1].std is None, "one seed has no spread"
    assert rows[1].failures == ("seed 1 failed: out of memory",)


def test_other_settings_are_another_row() -> None:
    other = result("rigl", 0.01, 2, 0.7, fingerprint="longer")
    assert len([r for r in rows_from_results([*RESULTS, other]) if r.method == "rigl" and r.density == 0.01]) == 2


def test_the_table_says_what_failed() -> None:
    console = Console(record=True, width=120, file=StringIO())
    show_table(judged(rows_from_results(RESULTS)), console)
    text = console.export_text()
    assert "82.00 ± 2.83" in text
    assert "1 of 2" in text
    assert "seeds that others have: dense at density 1: 1; rigl at density 0.001: 1" in text
    assert "failed: east at density 0.01, seed 1 failed: out of memory" in text
    assert "99-100" in text


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    png, svg = draw_curve(rows_from_results(RESULTS), tmp_path / "curve")
    with Image.open(png) as image:
        assert image.size[0] > 600
    text = svg.read_text()
    assert "<svg" in text
    assert [round(logit(d), 3) for d in (0.5, 0.1, 0.01, 0.001, 1.0)] == [0, 0.954, 1.996, 3.0, -1.996]
    draw_curve(
        rows_from_results([result("dst", 0.02, 0, 0.9, emergent=True), result("dst", 1.0, 1, 0.9)]), tmp_path / "c"
    )


def test_a_density_that_came_out_is_averaged_over_seeds_and_shown_with_its_spread(tmp_path: Path) -> None:
    runs = [
        result(
            "dst",
            density,
            seed,
            0.98,
            fingerprint="dst",
            emergent=True,
            reset_in_last_two_epochs=seed == 1,
            remarks=["thresholds never settle"],
        )
        for seed, density in enumerate((0.02, 0.04))
    ]
    (row,) = rows_from_results(runs)
    assert row.emergent
    assert row.density == pytest.approx(0.03)
    assert row.density_std == pytest.approx(0.0141421, abs=1e-6)
    console = Console(record=True, width=140, file=StringIO())
    show_table(judged([row]), console)
    text = console.export_text()
    assert "97.00 ± 1.41" in text
    assert text.count("thresholds never settle") == 1
    assert "a dying layer was reset within the last two epochs of seeds 1" in text
    assert all(path.stat().st_size > 1000 for path in draw_curve([row], tmp_path / "curve"))
