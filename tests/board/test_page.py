"""The page in a real browser. Its runs are made up, and written as runs write them."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.board.claims import Claim, verify
from harness.board.page import write_site
from harness.board.ranking import judged
from harness.board.rows import rows_from_results
from harness.board.source import Records
from harness.errors import HarnessError
from harness.track.record import Record, write_result
from tests.board.made import result

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]  # fmt: skip  # noqa: E501
EVIL = "</script><b>evil"
browser_only = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: none is installed here")

ACCURACIES = {
    ("dense", 1.0): (0.97, 0.96, 0.98), ("east", 0.01): (0.95, 0.94, 0.96), ("rigl", 0.01): (0.93, 0.92, 0.95),
    ("set", 0.01): (0.80, 0.95, 0.70), ("east", 0.001): (0.70, 0.71, 0.69), ("rigl", 0.001): (0.20, 0.22, 0.21),
    ("set", 0.001): (0.12, 0.11, 0.10), (EVIL, 0.001): (0.10, 0.11, 0.10),
}  # fmt: skip


def made_runs(root: Path) -> None:
    layers = [
        {"name": "conv1", "shape": [16, 1, 3, 3], "n_active": 7, "n_nonzero": 7},
        {"name": "classifier", "shape": [10, 16], "n_active": 40, "n_nonzero": 39},
    ]
    for i, ((method, density), accuracies) in enumerate(ACCURACIES.items()):
        for setting in ("one", "two"):
            for seed, accuracy in enumerate(accuracies):
                of = result(
                    method, density, seed, accuracy, layers=layers, fingerprint=f"{setting}{i}", setting=setting,
                    run_id=f"{setting}{i}-{seed}", setting_label=f"setting {setting}", n_train=100, n_test=50,
                    train_flops=1e9 * (i + 1), inference_macs=1e6 * (i + 1), train_seconds=10.0,
                )  # fmt: skip
                folder = root / of["run_id"]
                folder.mkdir(parents=True)
                record = Record(folder)
                for step in (10, 20):
                    record.append(
                        "evaluation", step=step, val_accuracy=accuracy, density=density, dyrelu_beta=1 - step / 20
                    )
                (folder / "config.yaml").write_text(f"method: {{name: {setting}-configuration}}\n")
                write_result(folder, of)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    made_runs(root)
    source = Records(root)
    claim = Claim(data="digits", model="net", method="rigl", density=0.01, mean=93.5, std=1.0, n=3, recipe="r",
                  source="A paper", tag="P")  # fmt: skip
    checked = [verify(claim, [r for r in source.results() if r["fingerprint"] == "one2"], 0.5, 0.1)]
    folder = tmp_path_factory.mktemp("page") / "site"
    return write_site(
        folder, judged(rows_from_results(source.results())), [claim], checked, source, "harness bench made"
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        held = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield held
        held.close()


class Visit:
    """A page that must not ask the network for anything, nor complain."""

    def __init__(self, browser: Any, address: str, **how: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **how})
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda r: self.complaints.append(r.url) if r.url.startswith("http") else None)
        self.page.goto(address)
        self.page.wait_for_selector(".chart[data-drawn]", timeout=30_000)

    def methods(self) -> list[str]:
        """Of our rows, in the order they are shown."""
        return [text.strip() for text in self.page.locator("#rows tbody tr:not(.published) td.left").all_inner_texts()]

    def close(self) -> None:
        self.context.close()
        assert self.complaints == []


@browser_only
def test_it_loads_and_says_what_it_shows(site: Path, browser: Any) -> None:
    visit = Visit(browser, site.as_uri())
    page = visit.page
    assert page.locator("#table option").count() == 2
    assert "setting one; 100 images trained on, 50 tested on" in page.locator("#convention").inner_text()
    assert visit.methods() == ["dense", "east", "rigl", "set", "east", "rigl", "set", EVIL]
    assert page.locator("tr.published").inner_text().split("\t")[:3] == [
        "99",
        "rigl, published: A paper (P)",
        "93.50 ± 1.00",
    ]
    assert [text.split("\t")[1] for text in page.locator("tr.best").all_inner_texts()] == ["east"], "only at 99.9 %"
    assert page.locator("#count").inner_text() == "8 of 8 rows"
    assert "underpowered" in page.locator("main").inner_text()
    names = page.evaluate("document.getElementById('curve').data.map((t) => t.name).filter((n) => n)")
    assert set(names) == {"east", "rigl", "set", EVIL, "dense 97.00 %", "published"}
    visit.close()


@browser_only
def test_sorting_filtering_and_a_link_to_the_same_view(site: Path, browser: Any) -> None:
    visit = Visit(browser, site.as_uri())
    page = visit.page
    page.get_by_role("button", name="accuracy %").click()
    assert page.locator("th[aria-sort=descending]").inner_text() == "accuracy % ▾"
    assert visit.methods()[:3] == ["dense", "east", "rigl"]
    page.keyboard.press("Enter")  # the button kept the focus
    assert page.locator("th[aria-sort=ascending]").inner_text() == "accuracy % ▴"
    assert visit.methods()[0] == EVIL
    page.select_option("#density", "0.01")
    assert visit.methods() == ["set", "rigl", "east", "dense"]
    page.get_by_role("checkbox", name="set").uncheck()
    page.fill("#find", "E")
    page.select_option("#x", "nonzero")
    assert visit.methods() == ["east", "dense"]
    link = page.url
    visit.close()
    other = Visit(browser, link)
    assert other.methods() == ["east", "dense"]
    assert not other.page.get_by_role("checkbox", name="set").is_checked()
    assert "non-zero weights" in other.page.locator("#curve-says").inner_text()
    other.page.get_by_role("button", name="show all").click()
    assert len(other.methods()) == 8
    other.page.select_option("#table", index=1)
    assert "setting two" in other.page.locator("#convention").inner_text()
    other.close()


@browser_only
def test_the_legend_toggles_a_line(site: Path, browser: Any) -> None:
    visit = Visit(browser, site.as_uri())
    visit.page.locator("#curve .legendtoggle").first.click()
    visit.page.wait_for_function("document.getElementById('curve').data.some((t) => t.visible === 'legendonly')")
    visit.close()


@browser_only
def test_downloads_hold_what_is_shown(site: Path, browser: Any) -> None:
    visit = Visit(browser, site.as_uri() + "#density=0.001", accept_downloads=True)
    visit.page.wait_for_function("document.querySelectorAll('#rows tbody tr').length === 5")
    with visit.page.expect_download() as got:
        visit.page.get_by_role("button", name="download CSV").click()
    rows = list(csv.DictReader(Path(got.value.path()).read_text().splitlines()))
    assert [r["method"] for r in rows] == ["dense", "east", "rigl", "set", EVIL]
    assert float(rows[1]["mean"]) == pytest.approx(0.70)
    with visit.page.expect_download() as got:
        visit.page.get_by_role("button", name="download JSON").click()
    assert [r["n"] for r in json.loads(Path(got.value.path()).read_text())] == [3] * 5
    visit.close()


@browser_only
def test_each_row_has_its_page(site: Path, browser: Any) -> None:
    visit = Visit(browser, site.as_uri())
    visit.page.get_by_role("link", name="east", exact=True).first.click()
    visit.page.wait_for_selector("#layer-chart[data-drawn]")
    text = visit.page.locator("main").inner_text()
    assert "name: one-configuration" in text
    assert "16 × 1 × 3 × 3" in text
    assert "less rigl" in text
    titles = visit.page.locator("h3").all_inner_texts()
    assert titles == ["Validation accuracy", "Density", "DyReLU: share of the dynamic part"]
    assert visit.page.evaluate("document.getElementById('chart-dyrelu-beta').data[0].y") == [0.5, 0]
    visit.page.get_by_role("link", name="Leaderboard").click()
    visit.page.wait_for_selector("#curve[data-drawn]")
    visit.close()


@browser_only
@pytest.mark.parametrize("light", ["light", "dark"])
@pytest.mark.parametrize("name", ["index.html", "rows/one1-east.html"])
def test_axe_finds_nothing(site: Path, browser: Any, light: str, name: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    visit = Visit(browser, (site.parent / name).as_uri(), color_scheme=light)
    found = Axe().run(visit.page)
    assert found.violations_count == 0, found.generate_report()
    visit.close()


@browser_only
def test_a_phone_scrolls_only_tables_sideways(site: Path, browser: Any) -> None:
    for name in ("index.html", "rows/one1-east.html"):
        visit = Visit(browser, (site.parent / name).as_uri(), viewport={"width": 375, "height": 700})
        assert visit.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        visit.close()


def test_the_files_beside_the_page(site: Path) -> None:
    rows = list(csv.DictReader((site.parent / "board.csv").read_text().splitlines()))
    assert len(rows) == 16
    assert [len(t["rows"]) for t in json.loads((site.parent / "board.json").read_text())] == [8, 8]
    assert len(list((site.parent / "rows").iterdir())) == 16
    assert "</script><b>" not in site.read_text().split('id="board">')[1].split("</script>")[0]


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(HarnessError, match="holds other files"):
        write_site(tmp_path, [], [], [], Records(tmp_path), None)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
