from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from harness.sparse.budgets import Shapes
from harness.sparse.masks import HiddenWeight, WeightView
from harness.sparse.method import Masks, SparseMethod, SparseOptions
from harness.sparse.selection import top_k_mask


class TopKASTOptions(SparseOptions):
    name: str = "topkast"
    backward_density: float = Field(0.2, gt=0, le=1)
    """Fraction of weights that is trained: those the forward pass uses, and the next largest."""

    interval: int = Field(100, ge=1)
    """Optimizer steps between choices of both sets."""

    explore: float = Field(1.0, ge=0, le=1)
    """Fraction of the run after which the forward weights are fixed and they alone are trained."""

    penalty: float = Field(1e-4, ge=0)
    """c of the loss c * (sum of squares of forward weights + that of the other trained weights times a factor)."""

    penalty_factor: Literal["density", "sparsity"] = "density"
    """The factor: 1 / density, or 1 / (1 - density); public re-implementations differ, and the paper was not read."""

    @model_validator(mode="after")
    def _contains(self) -> TopKASTOptions:
        if self.backward_density < self.density:
            raise ValueError(
                f"backward_density {self.backward_density:g} must be at least density {self.density:g}: the weights "
                "that are used are among those that are trained"
            )
        return self


class _WeightedSquares(torch.autograd.Function):
    """Sum of weights * theta^2, reading theta once each way and keeping only the product."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, weights: Tensor) -> Tensor:
        product = theta * weights
        ctx.save_for_backward(product)
        return (product * theta).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0] * (2 * gradients[0]), None


class ForwardBackward(HiddenWeight):
    """theta * mask forward; the gradient reaches `backward_mask`, which contains the mask."""

    backward_mask: Tensor

    def __init__(self, shape: torch.Size, n_forward: int, n_backward: int) -> None:
        super().__init__(torch.zeros(shape, dtype=torch.bool), trains_all=False)
        self.register_buffer("backward_mask", torch.zeros(shape, dtype=torch.bool))
        self.n_forward, self.n_backward = n_forward, n_backward
        self._weights: tuple[tuple[float, ...], Tensor] | None = None

    def choose(self, theta: Tensor, n_backward: int) -> Tensor:
        """Take the largest `n_backward` weights for training; returns those for the forward pass."""
        magnitude = theta.abs()
        forward = top_k_mask(magnitude, self.n_forward)
        self.backward_mask.copy_(forward | top_k_mask(magnitude, n_backward))
        return forward

    def prepare(self, theta: Tensor) -> None:
        self.mask.copy_(self.choose(theta, self.n_backward))

    def trained(self) -> Tensor:
        return self.backward_mask

    def survivors(self, new: Tensor) -> tuple[None, Tensor]:
        return None, self.backward_mask

    def penalty_weights(self, factor: float) -> Tensor:
        """1 where the forward pass uses a weight, 1 / factor where it is only trained; anew where a mask changed."""
        masks = self.mask, self.backward_mask
        of = factor, *(n for mask in masks for n in (mask.data_ptr(), mask._version))
        if self._weights is None or self._weights[0] != of:
            explored = (self.backward_mask & ~self.mask).float() / factor
            self._weights = of, explored + self.mask
        return self._weights[1]


class TopKAST(SparseMethod):
    """The largest weights are used, a larger set is trained: a weight returns by growing where it is not used."""

    Options: ClassVar = TopKASTOptions
    options: TopKASTOptions
    family: ClassVar[str] = "dynamic"
    source: ClassVar[str] = "Jayakumar et al. 2020 (through re-implementations)"

    def bind(self, n_weights: int, shapes: Shapes) -> None:
        super().bind(n_weights, shapes)
        self.backward_budget = self.budget_for(self.options.backward_density)
        self.last_step = round(self.options.explore * self.clock.total_steps)

    def views(self) -> dict[str, WeightView]:
        return {
            layer: ForwardBackward(torch.Size(shape), self.target_budget[layer], self.backward_budget[layer])
            for layer, shape in self.shapes.items()
        }

    def backward_budgets_at(self, step: int) -> dict[str, int]:
        return self.backward_budget if step < self.last_step or self.options.explore == 1 else self.target_budget

    def update_due(self, step: int) -> bool:
        return step <= self.last_step and (step % self.options.interval == 0 or step == self.last_step)

    def trained_at(self, step: int) -> dict[str, int]:
        return self.backward_budgets_at(step - 1)

    def new_masks(self, step: int) -> Masks:
        backward, out = self.backward_budgets_at(step), {}
        for layer in self.shapes:
            view = self.tensors.view(layer)
            assert isinstance(view, ForwardBackward)
            out[layer] = view.choose(self.tensors.weight(layer), backward[layer])
        return out

    def extra_loss(self) -> Tensor:
        factor = self.options.density if self.options.penalty_factor == "density" else 1 - self.options.density
        parts = []
        for layer in self.shapes:
            view = self.tensors.view(layer)
            assert isinstance(view, ForwardBackward)
            parts.append(_WeightedSquares.apply(self.tensors.stored(layer), view.penalty_weights(factor)))
        return self.options.penalty * torch.stack(parts).sum()
