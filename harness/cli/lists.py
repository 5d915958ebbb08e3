"""`harness recipes`, `methods`, `models`, `data`: what there is."""

from __future__ import annotations

import json
from typing import Any

from harness.cli.app import app
from harness.cli.options import Json


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the shipped recipes and suites."""
    from harness.config.recipes import load_recipe, shipped_recipes

    found = [load_recipe(name) for name in shipped_recipes()]
    rows = [{"name": r.name, "kind": "suite" if r.axes else "recipe", "description": r.description} for r in found]
    show_list(rows, as_json)


@app.command()
def methods(as_json: Json = False) -> None:
    """List the methods, their family and source."""
    from harness.config import registry

    rows = []
    for name in registry.METHODS:
        method = registry.load("method", name, registry.METHODS)
        options = {
            k: f.get_default(call_default_factory=True)
            for k, f in method.Options.model_fields.items()
            if k not in ("name", "label", "density", "keep_dense")
        }
        plain = {k: v.model_dump() if hasattr(v, "model_dump") else v for k, v in options.items()}
        row: dict[str, Any] = {"name": name, "family": method.family, "source": method.source}
        row["options"] = plain if as_json else ", ".join(plain)
        rows.append(row)
    show_list(rows, as_json)


@app.command()
def models(as_json: Json = False) -> None:
    """List the models."""
    from harness.config import registry

    show_list([{"name": name, "where": path} for name, path in registry.MODELS.items()], as_json)


@app.command()
def data(as_json: Json = False) -> None:
    """List the data sets."""
    from harness.config import registry

    rows = []
    for name in registry.DATA:
        reader = registry.load("data set", name, registry.DATA)
        rows.append({"name": name, "description": " ".join((reader.__doc__ or "").split())})
    show_list(rows, as_json)


def show_list(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
