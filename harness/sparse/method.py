"""What a sparse-training method is: which weights, how many per layer, which to drop and grow, and when.

A method asks the run for weights, gradients and keyed noise, and returns masks. It never touches ``.data``, ``.grad``
or optimizer state; the engine does, the same way for every method and on every engine.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from harness.config.schema import MethodOptions, RunConfig
from harness.sparse.budgets import Distribution, Shapes, layer_budgets, total_budget
from harness.sparse.masks import MaskedWeight, WeightView
from harness.sparse.noise import keyed_generator
from harness.sparse.schedules import Clock, CosineDrop
from harness.sparse.selection import random_mask, top_k_mask

Masks = dict[str, Tensor]


class Tensors(Protocol):
    """What a method may ask of the engine. Every call is collective: all ranks make it, all get the same tensor."""

    def mask(self, layer: str) -> Tensor: ...

    def weight(self, layer: str) -> Tensor: ...

    def gradient(self, layer: str) -> Tensor: ...

    def momentum(self, layer: str) -> Tensor:
        """Where the optimizer's state is moving each weight, up to sign and scale per layer."""
        ...

    def stored(self, layer: str) -> nn.Parameter:
        """The trained parameter itself, for a loss; on this rank only."""
        ...

    def view(self, layer: str) -> WeightView: ...

    def rewrite(self, parameter: nn.Parameter, where: Tensor, value: float) -> None:
        """Set a parameter to `value` where `where`, which broadcasts, says so."""
        ...


class Method:
    """Dense training, and the parent of all methods."""

    Options: ClassVar[type[MethodOptions]] = MethodOptions
    family: ClassVar[str] = "dense"
    source: ClassVar[str] = "-"
    takes_density: ClassVar[bool] = False
    """Whether a density is asked for."""
    emergent: ClassVar[bool] = False
    """Density is not asked for: it comes out, and may change with every step."""
    scores_at_start: ClassVar[bool] = False
    """Whether `choose_masks` is asked for the masks before the first step."""
    forward_is_dense: ClassVar[bool] = False
    """Masked positions cost multiplications all the same (a fixed dense part)."""

    def __init__(self, options: MethodOptions, clock: Clock, seed: int) -> None:
        self.options = options
        self.clock = clock
        self.seed = seed
        self.n_weights = 0
        self.shapes: Shapes = {}
        self.ceiling: dict[str, int] | None = None
        """Active weights per layer at most, where `budgets_at` does not tell how many exactly."""
        self.tensors: Tensors

    # --- before training -------------------------------------------------------------------------------

    def transform(self, model: nn.Module) -> nn.Module:
        """Change the architecture before anything is masked (EAST)."""
        return model

    def bind(self, n_weights: int, shapes: Shapes) -> None:
        """Learn the denominator of density (weights of the untransformed network) and the layers there are."""
        self.n_weights, self.shapes = n_weights, shapes
        self.budgets_at(0)  # an impossible budget is refused before anything runs

    def views(self) -> dict[str, WeightView]:
        """How the network sees the weight of each layer; a layer without a view is dense."""
        return {}

    def choose_masks(self, network: nn.Module, draw: Any) -> Masks:
        """The masks of the untrained network, for methods that score it. Called on rank 0 alone.

        network: a copy with its views, on the run's device. draw: see `harness.sparse.scoring.Draw`.
        """
        return {}

    # --- pure functions of the step --------------------------------------------------------------------

    def budgets_at(self, step: int) -> dict[str, int] | None:
        """Active weights per layer after `step` steps, exactly; None where only the total is set, or nothing is."""
        return {name: torch.Size(shape).numel() for name, shape in self.shapes.items()}

    def total_at(self, step: int) -> int | None:
        """Active weights of all layers after `step` steps, exactly; None where density is emergent."""
        budgets = self.budgets_at(step)
        return sum(budgets.values()) if budgets is not None else None

    def update_due(self, step: int) -> bool:
        """Whether the topology changes right after step `step` (1-based)."""
        return False

    def replaces_step(self, step: int) -> bool:
        """Whether the topology update at `step` takes the place of the optimizer step."""
        return False

    def needs_gradient(self, step: int) -> bool:
        """Whether the gradient of every position must be known at `step`."""
        return False

    def trained_at(self, step: int) -> dict[str, int] | None:
        """Weights per layer whose gradient `step` computes, where they are others than the active ones."""
        return None

    def resets_momentum(self, step: int) -> bool:
        """Whether all optimizer state is zeroed with the topology update of `step`."""
        return False

    # --- rounds ----------------------------------------------------------------------------------------

    @classmethod
    def length(cls, options: MethodOptions, schedule_steps: int) -> int:
        """Optimizer steps of a whole run whose learning-rate schedule has `schedule_steps`."""
        return schedule_steps

    def schedule_step(self, step: int) -> int:
        """Where the step after `step` steps stands in the learning-rate schedule."""
        return step

    def saves_at(self, step: int) -> bool:
        """Whether the network after `step` steps is kept, to be returned to."""
        return False

    def starts_round(self, step: int) -> bool:
        """Whether, before the step after `step` steps, weights go back to the saved ones under `new_masks(step)`, and
        optimizer state to zero."""
        return False

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Raise HarnessError, with the reason, for settings elsewhere that would silently turn this method off."""

    @classmethod
    def remarks(cls, config: RunConfig) -> list[str]:
        """What settings elsewhere make of this method, for the reader of its numbers."""
        return []

    def is_final(self, step: int) -> bool:
        """Whether the network after `step` has its final density and architecture (only then it may be the best)."""
        return True

    def schedules(self, step: int) -> dict[str, float]:
        """Numbers of the method's own that follow from the step alone."""
        return {}

    def gauges(self, step: int) -> dict[str, float]:
        """Method-specific numbers for the record of an evaluation."""
        return self.schedules(step)

    def outcome(self) -> dict[str, Any]:
        """Method-specific facts for the result of a finished run."""
        return {}

    # --- during training -------------------------------------------------------------------------------

    def before_step(self, step: int) -> None:
        """Called before the forward pass of `step`, on all ranks."""

    def extra_loss(self) -> Tensor | None:
        """Added to the mean loss once per optimizer step, however many ranks and micro-batches there are."""
        return None

    def new_masks(self, step: int) -> Masks:
        """The masks after the topology update of `step`, for the layers that change."""
        return {}

    def adapt(self, model: nn.Module, step: int) -> bool:
        """Bring the model to what it is after `step` steps; returns whether its set of trained parameters changed.

        Called before training, where `adapts_at` says so, and before a resume: a function of the step, not of history.
        """
        return False

    def adapts_at(self, step: int) -> bool:
        """Whether the model after `step` steps, at least 1, is another than after the step before."""
        return False


class EmergentOptions(MethodOptions):
    @field_validator("density", mode="after")
    @classmethod
    def _comes_out(cls, density: float) -> float:
        if density != 1:
            raise ValueError(
                "cannot be asked for: what is kept comes out of this method's own options, weight decay, learning rate "
                "and length of training. Leave it out; `harness match` finds options for a density"
            )
        return density


class EmergentMethod(Method):
    """No budget: which weights take part is learned, or decided by thresholds."""

    Options: ClassVar[type[MethodOptions]] = EmergentOptions
    emergent: ClassVar[bool] = True

    def budgets_at(self, step: int) -> None:
        return None

    def trained_at(self, step: int) -> dict[str, int]:
        """Weights that take no part are trained too."""
        return {layer: math.prod(shape) for layer, shape in self.shapes.items()}

    def gauges(self, step: int) -> dict[str, float]:
        return {f"density/{layer}": float(self.tensors.mask(layer).double().mean()) for layer in self.shapes}


class SparseOptions(MethodOptions):
    name: str = "static"
    distribution: Distribution = "erk"
    """How the budget is spread over layers."""


class SparseMethod(Method):
    """A fixed budget per layer and random initial masks: exact counts, keyed by (seed, 'mask', layer)."""

    Options: ClassVar[type[MethodOptions]] = SparseOptions
    options: SparseOptions
    takes_density: ClassVar[bool] = True

    def budget_for(self, density: float) -> dict[str, int]:
        total = total_budget(density, self.n_weights)
        return layer_budgets(self.shapes, total, self.options.distribution)

    def bind(self, n_weights: int, shapes: Shapes) -> None:
        self.n_weights, self.shapes = n_weights, shapes
        self.target_budget = self.budget_for(self.options.density)

    def budgets_at(self, step: int) -> dict[str, int]:
        return self.target_budget

    def initial_masks(self) -> Masks:
        budgets = self.budgets_at(0)
        return {
            name: random_mask(torch.Size(shape), budgets[name], keyed_generator(self.seed, "mask", name))
            for name, shape in self.shapes.items()
        }

    def views(self) -> dict[str, WeightView]:
        return {name: MaskedWeight(mask) for name, mask in self.initial_masks().items()}


class DropAndGrowOptions(SparseOptions):
    drop_fraction: float = Field(0.3, gt=0, lt=1)
    """Share of a layer's active weights replaced at the first update; it falls along half a cosine."""

    final_drop_fraction: float = Field(0.0, ge=0, lt=1)
    interval: int = Field(100, ge=1)
    """Optimizer steps between topology updates."""

    stop: float = Field(0.75, gt=0, le=1)
    """Fraction of the run after which the topology is fixed and the drop fraction has reached its end."""

    style: Literal["append", "replace"] = "append"
    """An update follows the optimizer step of its batch, or takes its place (RigL's original)."""


class DropAndGrow(SparseMethod, ABC):
    """Drop the smallest magnitudes of each layer, grow as many elsewhere; the budget of each layer stays.

    Positions dropped in an update are candidates for growth in it; one that is grown at once was never out, and keeps
    its value and its momentum.
    """

    Options: ClassVar[type[MethodOptions]] = DropAndGrowOptions
    options: DropAndGrowOptions
    grows_by_gradient: ClassVar[bool] = False

    def bind(self, n_weights: int, shapes: Shapes) -> None:
        super().bind(n_weights, shapes)
        o = self.options
        self.last_step = round(o.stop * self.clock.total_steps)
        self.drop = CosineDrop(start=o.drop_fraction, end=o.final_drop_fraction, until=self.last_step)

    def update_due(self, step: int) -> bool:
        stopped = step >= self.last_step if self.options.stop < 1 else step > self.last_step
        return step % self.options.interval == 0 and not stopped

    def replaces_step(self, step: int) -> bool:
        return self.options.style == "replace" and self.update_due(step)

    def needs_gradient(self, step: int) -> bool:
        return self.grows_by_gradient and self.update_due(step)

    @abstractmethod
    def grow_score(self, layer: str, step: int) -> Tensor:
        """One score per position of the layer; the largest among inactive positions are grown."""

    def n_dropped(self, n_active: int, step: int) -> int:
        return int(self.drop.at(step) * n_active)

    def new_masks(self, step: int) -> Masks:
        return {layer: self.drop_and_grow(layer, step) for layer in self.shapes}

    def drop_and_grow(self, layer: str, step: int) -> Tensor:
        mask = self.tensors.mask(layer)
        n_active = self.budgets_at(step)[layer]
        n_kept = n_active - self.n_dropped(n_active, step)
        return smallest_replaced(mask, self.tensors.weight(layer), self.grow_score(layer, step), n_kept, n_active)


def smallest_replaced(mask: Tensor, weight: Tensor, score: Tensor, n_kept: int, n_active: int) -> Tensor:
    """A mask of `n_active` with its `n_kept` largest magnitudes, and the best scores outside those grown."""
    n = n_active - n_kept
    kept = top_k_mask(weight.abs(), n_kept, among=mask)
    return kept | top_k_mask(score, n, among=~kept)
