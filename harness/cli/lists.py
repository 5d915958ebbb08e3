"""`harness recipes`, `methods`, `models`: what there is."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

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
def methods(
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As docs/methods.md, with published numbers.")] = False,
) -> None:
    """List the methods: family, source, what they keep, options."""
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
        row["density"] = "asked" if method.takes_density else "comes out" if method.emergent else "1"
        row["keeps"] = " ".join((method.__doc__ or "").split("\n\n")[0].split())
        row["options"] = plain
        rows.append(row)
    if markdown:
        print(methods_page(rows))
    elif as_json:
        show_list(rows, True)
    else:
        show_list([{k: v for k, v in row.items() if k not in ("options", "keeps")} for row in rows], False)


HEADLINE = ("imagefolder:imagenet", "resnet50-w64", (0.2, 0.1, 0.05))


METHODS_PAGE = """\
# Methods

Made by `harness methods --markdown` from the registry and the claims files.

ResNet-50, ImageNet: published top-1 accuracy at 80, 90, 95 % sparse, with the form it is of. Papers differ in their
settings: a gap below half a point means nothing. `harness verify` compares claims with runs one by one.

Published settings: the recipes that train the method's published cells, with the layer distribution, the layers left
dense, the schedule and the optimizer of the comparison they come from. Defaults are for comparisons of our own: every
convolution and linear layer is masked, and a weight that goes or comes has no optimizer state.

| name | family | what it does | density | defaults | ResNet-50, ImageNet | published settings | source |
|---|---|---|---|---|---|---|---|
"""


def methods_page(rows: list[dict[str, Any]]) -> str:
    """docs/methods.md: one line a method, its defaults, and what was published of ResNet-50 on ImageNet."""
    from harness.board.claims import load_claims

    claims = load_claims()
    lines = METHODS_PAGE.splitlines()
    for row in rows:
        options = ", ".join(f"{k} {shown(v)}" for k, v in row["options"].items())
        cells = [
            f"`{row['name']}`",
            row["family"],
            row["keeps"],
            row["density"],
            options,
            headline(row["name"], claims),
            ", ".join(sorted({f"`{c.recipe}`" for c in claims if c.method == row["name"] and c.recipe})),
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in [*cells, row["source"]]) + " |")
    return "\n".join(lines)


def shown(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {shown(v)}" for k, v in value.items()) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)


def headline(method: str, claims: list[Any]) -> str:
    data, model, densities = HEADLINE
    found: dict[str, dict[float, float]] = {}
    for c in claims:
        if (c.data, c.model, c.method) == (data, model, method) and c.density in densities and c.mean is not None:
            found.setdefault(c.variant or "", {}).setdefault(c.density, c.mean)
    told = []
    for variant, cells in found.items():
        numbers = " / ".join(f"{cells[d]:.1f}" if d in cells else "-" for d in densities)
        told.append(f"{variant}: {numbers}" if variant else numbers)
    return "; ".join(told)


@app.command()
def models(as_json: Json = False) -> None:
    """List the models."""
    from harness.config import registry

    show_list([{"name": name, "where": path} for name, path in registry.MODELS.items()], as_json)


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
