"""A leaderboard to publish: static files that need no network, one page for all tables and one for each row."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from statistics import mean
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.board.claims import POINTS, SHARE, Claim, Verified
from harness.board.formats import as_csv, as_json
from harness.board.ranking import Judged, cells_over, critical_difference, profiles
from harness.board.rows import Row
from harness.board.source import Source
from harness.board.statistics import bootstrap, interval
from harness.board.table import (
    shown_density,
    shown_difference,
    shown_interval,
    shown_tuning,
    span,
    spread,
    spread_of,
    title_of,
)
from harness.errors import HarnessError
from harness.track.record import CONFIG, read_result, write_whole

PROFILE_POINTS = [0.0, 0.1, 0.2, 0.5, *range(1, 41)]
CHARTS = {
    "val_accuracy": ("Validation accuracy", "%", 100.0, False),
    "train_loss": ("Training loss", "", 1.0, False),
    "density": ("Density", "% of maskable weights", 100.0, True),
    "dyrelu_beta": ("DyReLU: share of the dynamic part", "beta", 1.0, False),
}
"""What a row's page draws, where its records have it: title, unit, factor, whether the axis is logarithmic."""

MARK = "leaderboard.json"
"""Tells a folder that `write_site` may write over."""


def write_site(
    folder: Path,
    tables: list[Judged],
    claims: list[Claim],
    verified: list[Verified],
    source: Source,
    command: str | None,
) -> Path:
    """Write index.html, a page for each row, and all rows as CSV and JSON; returns the path of index.html.

    HarnessError for a folder that holds something else.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise HarnessError(f"--html {folder}: holds other files; give a new folder, or one that this command made")
    environment = Environment(loader=PackageLoader("harness.board", "site"), autoescape=True, undefined=StrictUndefined)
    shutil.rmtree(folder / "rows", ignore_errors=True)
    (folder / "rows").mkdir(parents=True)
    write_whole(folder / MARK, json.dumps({"made_by": "harness board --html"}) + "\n")
    write_whole(folder / "charts.js", f'const PLOTLY = "{packed_plotly()}";\n{asset("charts.js")}')
    write_whole(folder / "board.csv", as_csv(tables))
    write_whole(folder / "board.json", as_json(tables))
    for of in tables:
        for row in of.rows:
            write_whole(folder / page_of(row), row_page(environment, of, row, source))
    index = index_page(environment, tables, claims, verified, command)
    write_whole(folder / "index.html", index)
    return folder / "index.html"


def asset(name: str) -> str:
    return (files("harness.board") / "site" / name).read_text()


def packed_plotly() -> str:
    """Plotly's own bundle, compressed: a third of its size, and the browser unpacks it."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def page_of(row: Row) -> str:
    return f"rows/{row.fingerprint}-{re.sub('[^A-Za-z0-9]+', '-', row.method).strip('-').lower()}.html"


def as_data(value: Any) -> Markup:
    """JSON for a script element: nothing in it can end the element. What is not a number becomes null."""
    text = json.dumps(rounded(value), separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("&", "\\u0026"))


def rounded(value: Any) -> Any:
    """Six digits, which is more than any accuracy here has."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list | tuple) else value


def index_page(
    environment: Environment, tables: list[Judged], claims: list[Claim], verified: list[Verified], command: str | None
) -> str:
    rows = [row for of in tables for row in of.rows]
    critical, cells = critical_difference(rows), cells_over(rows)
    held = profiles(rows, PROFILE_POINTS) if len(cells) > 1 else {}
    columns = list(row_data(tables[0], tables[0].rows[0]))
    data = {
        "columns": columns,
        "tables": [
            {
                "id": of.rows[0].convention.id, "title": title_of(of.rows),
                "data": of.rows[0].data, "model": of.rows[0].model,
                "rows": [list(row_data(of, row).values()) for row in of.rows],
                "remarks": [*dict.fromkeys(remark for row in of.rows for remark in remarks_of(row))],
                "claims": [
                    c.model_dump(include={"method", "density", "mean", "std", "n", "source", "tag"})
                    for c in claims
                    if (c.data, c.model) == (of.rows[0].data, of.rows[0].model) and None not in (c.mean, c.density)
                ],
            }
            for of in tables
        ],
        "profiles": {"points": PROFILE_POINTS, "methods": held} if held else None,
        "critical": {**asdict(critical), "groups": critical.groups} if critical else None,
    }  # fmt: skip
    return environment.get_template("index.html.j2").render(
        css=Markup(asset("site.css")), script=Markup(asset("index.js")), data=as_data(data), command=command,
        n_runs=f"{sum(len(r.seeds) + len(r.failures) for r in rows):,}", n_rows=f"{len(rows):,}",
        critical=critical, ranked=list(zip(critical.methods, critical.mean_ranks, strict=True)) if critical else [],
        profiles={"n_cells": len(cells)} if held else None, points=POINTS, share=f"{100 * SHARE:g}",
        verdicts=[verdict_line(v) for v in verified if v.verdict != "untested"],
        commits=sorted({c[:10] for r in rows for c in r.git_commits})[:12],
    )  # fmt: skip


def row_data(of: Judged, row: Row) -> dict[str, Any]:
    standing, ends, drawn = of.standings.get(row.fingerprint), interval(row.accuracies), bootstrap(row.accuracies)
    gaps = {name: held.get(row.fingerprint) for name, held in of.gaps.items()}
    return {
        "method": row.method, "density": row.density, "emergent": row.emergent, "density_std": row.density_std,
        "mean": row.mean, "std": row.std, "low": ends and ends[0], "high": ends and ends[1],
        "bootstrap_low": drawn and drawn[0], "bootstrap_high": drawn and drawn[1], "n": len(row.seeds),
        "failed": len(row.failures), "collapsed": row.n_collapsed or 0, "verified": row.n_verified,
        "rank": standing.rank if standing else None, "best": of.is_best(row),
        **{f"to_{name}": d.mean if d else None for name, d in gaps.items()},
        **{f"p_{name}": d.p_holm if d else None for name, d in gaps.items()},
        "nonzero": middle(row.n_nonzero), "active": middle(row.n_active), "macs": middle(row.inference_macs),
        "flops": middle(row.train_flops), "seconds": middle(row.train_seconds),
        "trials": row.tuning["trials"] if row.tuning else 0, "fingerprint": row.fingerprint, "page": page_of(row),
    }  # fmt: skip


def middle(values: Iterable[float]) -> float | None:
    held = list(values)
    return mean(held) if held else None


def remarks_of(row: Row) -> list[str]:
    said = [f"{row.method} at density {row.density:.4g}: {remark}" for remark in row.remarks]
    if row.n_collapsed:
        said.append(f"{row.method} at density {row.density:.4g}: {row.n_collapsed} of {len(row.seeds)} seeds collapsed")
    return said + [f"failed: {row.method} at density {row.density:.4g}, {failure}" for failure in row.failures]


def verdict_line(v: Verified) -> dict[str, Any]:
    c = v.claim
    density = f", density {c.density:g}" if c.density is not None and c.density < 1 else ""
    return {
        "claim": f"{c.data} {c.model} {c.method}{density}", "published": spread(c.mean, c.std), "n": len(v.accuracies),
        "here": spread_of(v.accuracies), "difference": shown_difference(v.accuracy, 1.0, ""), "verdict": v.verdict,
        "source": f"{c.source} ({c.tag})",
    }  # fmt: skip


def row_page(environment: Environment, of: Judged, row: Row, source: Source) -> str:
    results = [held for run_id in row.run_ids if (place := source.files(run_id)) and (held := read_result(place))]
    first = source.files(row.run_ids[0]) if row.run_ids else None
    config = (first / CONFIG).read_text() if first is not None and (first / CONFIG).exists() else ""
    charts = charts_of(row, source)
    layers = [
        {**layer, "size": math.prod(layer["shape"]), "density": layer["n_active"] / math.prod(layer["shape"])}
        for layer in (results[0].get("layers", []) if results else [])
    ]
    for layer in layers:
        layer["shape"] = " × ".join(map(str, layer["shape"]))
    heads = ["seed", "accuracy %", "active", "not zero", "training FLOPs", "seconds", "device", "run"]
    runs = [
        [
            r["seed"], f"{100 * r['test_accuracy_last']:.2f}", f"{r['n_active']:,}", f"{r['n_nonzero']:,}",
            f"{r.get('train_flops', math.nan):.4g}", f"{r.get('train_seconds', math.nan):.0f}", r.get("device", ""),
            r["run_id"],
        ]
        for r in results
    ]  # fmt: skip
    if not results:
        heads, runs = ["seed", "accuracy %"], [
            [s, f"{100 * a:.2f}"] for s, a in zip(row.seeds, row.accuracies, strict=True)
        ]  # fmt: skip
    data = {"charts": charts, "layers": [[layer["name"], layer["density"]] for layer in layers] or None}
    return environment.get_template("row.html.j2").render(
        css=Markup(asset("site.css")), script=Markup(asset("row.js")), data=as_data(data), row=row, charts=charts,
        title=title_of(of.rows), sparsity=shown_density(row)[0], facts=facts_of_row(of, row), said=remarks_of(row),
        run_heads=heads, runs=runs, layers=layers, first_seed=row.seeds[0] if row.seeds else "", config=config,
    )  # fmt: skip


def facts_of_row(of: Judged, row: Row) -> list[tuple[str, str]]:
    accuracy = spread(*(100 * v if v is not None else None for v in (row.mean, row.std)))
    standing = of.standings.get(row.fingerprint)
    facts = [
        ("test accuracy, %", f"{accuracy} over {len(row.seeds)} seeds"),
        ("95 % interval", f"{shown_interval(interval(row.accuracies))} (Student), "
                          f"{shown_interval(bootstrap(row.accuracies))} (bootstrap)"),
        ("rank", f"{standing.rank if standing else '-'}{', ahead of all others beyond chance' * of.is_best(row)}"),
    ]  # fmt: skip
    for name, held in of.gaps.items():
        d = held.get(row.fingerprint)
        if d is not None:
            said = f"{100 * d.mean:+.2f} points"
            if d.low is not None and d.high is not None and d.p_holm is not None:
                said += f" [{100 * d.low:+.2f}, {100 * d.high:+.2f}], p = {d.p_holm:.2g} after Holm"
            said += f"; {d.needed} seeds would show this size" if d.needed else ""
            facts.append((f"less {name}", said))
    return [
        *facts, ("weights not zero", span(row.n_nonzero)), ("active weights", span(row.n_active)),
        ("tuning behind it", shown_tuning(row)), ("recipe fingerprint", row.fingerprint),
        ("setting fingerprint", row.setting or "not recorded"),
        ("commits", ", ".join(row.git_commits) or "not recorded"),
        ("versions", "; ".join(", ".join(f"{k} {v}" for k, v in held) for held in row.versions) or "not recorded"),
    ]  # fmt: skip


def charts_of(row: Row, source: Source) -> list[dict[str, Any]]:
    lines: dict[str, list[dict[str, Any]]] = {key: [] for key in CHARTS}
    for seed, run_id in zip(row.seeds, row.run_ids, strict=True):
        events = [e for e in source.events(run_id) if e["event"] == "evaluation"]
        for key, (_, _, factor, _) in CHARTS.items():
            points = [(e["step"], factor * e[key]) for e in events if isinstance(e.get(key), int | float)]
            if points:
                x, y = zip(*points, strict=True)
                lines[key].append({"name": f"seed {seed}", "x": list(x), "y": list(y)})
    return [
        {"id": f"chart-{key.replace('_', '-')}", "title": title, "unit": unit, "log": log, "lines": lines[key]}
        for key, (title, unit, _, log) in CHARTS.items() if lines[key]
    ]  # fmt: skip
