from __future__ import annotations

import typer

app = typer.Typer(
    help="Which sparse-training method is best at a given sparsity? Train, compare, and see.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
