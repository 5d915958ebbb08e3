"""python -m benchmarks.report FOLDER: the figures of some results as a table in Markdown, beside their goals."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEAD = ("| figure | goal | stretch | here | least to most | |", "|---|---|---|---|---|---|")
PROFILE_HEAD = ("| missed | operator | ms of a step, or as said | beside |", "|---|---|---|---|")


def lines(folder: Path) -> Iterator[str]:
    """One table for each device and date, the commands before it."""
    held = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    made: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in held:
        if result["figures"].get("figures"):
            made.setdefault((result["device"], result["date"]), []).append(result)
    for (device, date), results in sorted(made.items()):
        commands = ", ".join(f"`{result['command']}`" for result in results)
        yield from (f"{device}, {date}; {commands}.", "", *HEAD)
        yield from (row(figure) for result in results for figure in result["figures"]["figures"])
        yield ""
        missed = [f for result in results for f in result["figures"]["figures"] if f.get("profile")]
        if missed:
            yield from ("Where those that missed their goal differ from what they are beside, by profile:", "")
            yield from (*PROFILE_HEAD, *(line for figure in missed for line in where(figure)), "")


def where(figure: dict[str, Any]) -> Iterator[str]:
    for i, (name, here, beside) in enumerate(figure["profile"]):
        yield f"| {figure['name'] if i == 0 else ''} | `{name}` | {here:.3g} | {beside:.3g} |"


def row(figure: dict[str, Any]) -> str:
    sign = "≥" if figure["at_least"] else "≤"
    goal, stretch = ("" if figure[b] is None else f"{sign} {figure[b]:g}" for b in ("goal", "stretch"))
    met = f"**{figure['met']}**" if figure["met"] == "missed" else figure["met"]
    spread = f"{figure['least']:.3g} to {figure['most']:.3g}" if figure["n"] > 1 else ""
    note = f"{met}; {figure['note']}" if met and figure["note"] else met or figure["note"]
    return f"| {figure['name']} | {goal} | {stretch} | {figure['median']:.3g} | {spread} | {note} |"


if __name__ == "__main__":
    print("\n".join(lines(Path(sys.argv[1]))))
