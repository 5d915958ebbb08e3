"""Tables for papers and spreadsheets: CSV, Markdown, LaTeX, JSON. Best in bold, where the test says there is one."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path

from harness.board.ranking import Judged
from harness.board.rows import Row, as_plain
from harness.board.statistics import interval
from harness.board.table import shown_density, shown_gap, shown_interval, shown_n, shown_rank, span, spread, title_of
from harness.errors import HarnessError

SPREADSHEET = (
    "data", "model", "setting_label", "method", "density", "n", "mean", "std", "low", "high", "median", "rank", "best",
    "to_dense", "to_dense_p_holm", "to_rigl", "to_rigl_p_holm", "n_collapsed", "n_failed", "n_weights", "n_exempt",
    "n_active", "n_nonzero", "inference_macs", "train_flops", "train_seconds", "devices", "tuning_trials",
    "tuning_gpu_hours", "fingerprint", "setting", "git_commits", "seeds", "accuracies",
)  # fmt: skip


def as_csv(tables: list[Judged]) -> str:
    """One line a row; lists joined by blanks. Accuracies and gaps between 0 and 1."""
    out = StringIO()
    writer = csv.DictWriter(out, SPREADSHEET, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for of in tables:
        writer.writerows(flat(of, row) for row in of.rows)
    return out.getvalue()


def flat(of: Judged, row: Row) -> dict[str, object]:
    plain, standing, ends = as_plain(row), of.standings.get(row.fingerprint), interval(row.accuracies)
    joined = {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in plain.items()}
    facts: dict[str, object] = {
        **joined, "low": ends[0] if ends else None, "high": ends[1] if ends else None,
        "rank": standing.rank if standing else None, "best": of.is_best(row), "n_failed": len(row.failures),
        "tuning_trials": row.tuning["trials"] if row.tuning else 0,
        "tuning_gpu_hours": row.tuning["gpu_hours"] if row.tuning else 0.0,
    }  # fmt: skip
    for name, held in of.gaps.items():
        d = held.get(row.fingerprint)
        facts |= {f"to_{name}": d.mean if d else None, f"to_{name}_p_holm": d.p_holm if d else None}
    return facts


def as_json(tables: list[Judged]) -> str:
    plain = [
        {"title": title_of(of.rows), "rows": [{**as_plain(r), **ranked(of, r)} for r in of.rows]}
        for of in tables
    ]  # fmt: skip
    return json.dumps(plain, indent=1) + "\n"


def ranked(of: Judged, row: Row) -> dict[str, object]:
    standing = of.standings.get(row.fingerprint)
    return {
        "rank": standing.rank if standing else None, "best": of.is_best(row),
        "gaps": {
            name: {"mean": d.mean, "low": d.low, "high": d.high, "p": d.p, "p_holm": d.p_holm, "needed": d.needed}
            for name, held in of.gaps.items() if (d := held.get(row.fingerprint)) is not None
        },
    }  # fmt: skip


HEADS = ("sparsity %", "method", "accuracy %", "95 % interval", "rank", "to dense", "to RigL", "n", "non-zeros")


def cells_of_row(of: Judged, row: Row) -> list[str]:
    standing = of.standings.get(row.fingerprint)
    middle = spread(*(100 * v if v is not None else None for v in (row.mean, row.std)))
    return [
        shown_density(row)[0], row.method, middle, shown_interval(interval(row.accuracies)), shown_rank(standing),
        *(shown_gap(of.gaps[name].get(row.fingerprint)) for name in ("dense", "rigl")), shown_n(row),
        span(row.n_nonzero),
    ]  # fmt: skip


def as_markdown(tables: list[Judged]) -> str:
    parts = []
    for of in tables:
        parts += [f"**{title_of(of.rows)}**", "", "| " + " | ".join(HEADS) + " |", "|---:|:---" + "|---:" * 7 + "|"]
        for row in of.rows:
            cells = [cell.replace("|", "\\|") for cell in cells_of_row(of, row)]
            if of.is_best(row):
                cells[1:3] = (f"**{cell}**" for cell in cells[1:3])
            parts.append("| " + " | ".join(cells) + " |")
        parts.append("")
    return "\n".join(parts)


ESCAPES = str.maketrans({
    **{c: f"\\{c}" for c in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}", "±": r"$\pm$", "*": "$^*$", "·": r"$\cdot$",
})  # fmt: skip


def as_latex(tables: list[Judged]) -> str:
    """One table environment per convention; needs the package booktabs."""
    parts = [r"% \usepackage{booktabs}"]
    for of in tables:
        parts += [
            r"\begin{table}", r"\centering", rf"\caption{{{title_of(of.rows).translate(ESCAPES)}}}",
            r"\begin{tabular}{rlrrrrrrr}", r"\toprule", " & ".join(h.translate(ESCAPES) for h in HEADS) + r" \\",
            r"\midrule",
        ]  # fmt: skip
        previous = None
        for row in of.rows:
            cells = [cell.translate(ESCAPES) for cell in cells_of_row(of, row)]
            if of.is_best(row):
                cells[1:3] = (rf"\textbf{{{cell}}}" for cell in cells[1:3])
            if previous not in (None, row.density):
                parts.append(r"\addlinespace")
            previous = row.density
            parts.append(" & ".join(cells) + r" \\")
        parts += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(parts)


FORMATS: dict[str, Callable[[list[Judged]], str]] = {
    ".csv": as_csv, ".md": as_markdown, ".tex": as_latex, ".json": as_json,
}  # fmt: skip


def in_format_of(path: Path, tables: list[Judged]) -> str:
    if path.suffix not in FORMATS:
        raise HarnessError(f"--export {path}: no format '{path.suffix}'; known: {', '.join(FORMATS)}")
    return FORMATS[path.suffix](tables)
