"""Optuna's samplers and pruners, made anew for each proposal from its number: there is no state to save or lose."""

from __future__ import annotations

import warnings
from typing import Any

import optuna

from harness.sparse.noise import key_of
from harness.tune.search import PrunerOptions, Search, grid_of


class Grid(optuna.samplers.GridSampler):
    """Optuna's own ends the optimization loop when all is tried; here there is none."""

    def after_trial(self, *_: Any) -> None:
        pass


def sampler_for(search: Search, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of trial `number`: what it proposes depends on that, the search's seed and the trials so far."""
    options = search.file.sampler
    seed = key_of(options.seed, "ask", number) % 2**32
    samplers = optuna.samplers
    independent: Any = {"independent_sampler": samplers.RandomSampler(seed), "warn_independent_sampling": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match options.name:
            case "tpe":
                return samplers.TPESampler(
                    n_startup_trials=options.startup, multivariate=True, group=True, constant_liar=True, seed=seed,
                )  # fmt: skip
            case "cmaes":
                return samplers.CmaEsSampler(n_startup_trials=options.startup, seed=seed, **independent)
            case "nsga2":
                return samplers.NSGAIISampler(population_size=options.startup, seed=seed)
            case "gp":
                del independent["warn_independent_sampling"]
                return samplers.GPSampler(n_startup_trials=options.startup, seed=seed, **independent)
            case "random":
                return samplers.RandomSampler(seed)
            case "grid":
                return Grid(grid_of(search), seed=options.seed)
            case "qmc":  # one sequence, so one seed
                return samplers.QMCSampler(scramble=True, seed=options.seed, **independent)


def pruner_for(options: PrunerOptions) -> optuna.pruners.BasePruner:
    match options.name:
        case "none":
            return optuna.pruners.NopPruner()
        case "median":
            return optuna.pruners.MedianPruner(n_startup_trials=options.startup, n_warmup_steps=options.first_step - 1)
        case "halving":
            return optuna.pruners.SuccessiveHalvingPruner(
                min_resource=options.first_step, reduction_factor=options.reduction
            )
        case "hyperband":
            return optuna.pruners.HyperbandPruner(min_resource=options.first_step, reduction_factor=options.reduction)
