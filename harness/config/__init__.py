"""What a run is: typed configs, recipes, and the identity of a run."""

from harness.config.identity import fingerprint, identity_of, run_id, setting_label, setting_of
from harness.config.recipes import Cell, Recipe, build_config, cells_of, load_recipe, parse_settings
from harness.config.schema import MethodOptions, RunConfig, Section

__all__ = [
    "Cell",
    "MethodOptions",
    "Recipe",
    "RunConfig",
    "Section",
    "build_config",
    "cells_of",
    "fingerprint",
    "identity_of",
    "load_recipe",
    "parse_settings",
    "run_id",
    "setting_label",
    "setting_of",
]
