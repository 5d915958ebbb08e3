from __future__ import annotations

import math
from typing import ClassVar, Literal

from torch import Tensor, nn

from baselines.rigl import RigL, RigLOptions
from east.cyclic import CyclicDensity, CyclicOptions
from east.dyrelu import DyReLU, DyReLUOptions, Phase, put_dyrelu, remove_dyrelu
from east.sharing import SharingOptions, share_weights
from harness.errors import HarnessError
from harness.sparse.budgets import Shapes
from harness.sparse.method import Masks
from harness.sparse.selection import top_k_mask


class EASTOptions(RigLOptions):
    """RigL as in ITOP (large rare updates to the end of training), and three parts that can each be turned off."""

    name: str = "east"
    drop_fraction: float = 0.5
    final_drop_fraction: float = 0.005
    interval: int = 4000
    stop: float = 1.0
    style: Literal["append", "replace"] = "append"
    dyrelu: DyReLUOptions | None = DyReLUOptions()
    sharing: SharingOptions | None = SharingOptions()
    cyclic: CyclicOptions | None = CyclicOptions()


class EAST(RigL):
    """RigL + DyReLU phasing + weight sharing in residual stages + cyclic density (arXiv 2411.13545)."""

    Options: ClassVar = EASTOptions
    options: EASTOptions
    family: ClassVar[str] = "dynamic"
    source: ClassVar[str] = "arXiv 2411.13545"

    phase: Phase | None = None
    cycle: CyclicDensity | None = None

    def transform(self, model: nn.Module) -> nn.Module:
        o = self.options
        if o.sharing is not None:
            share_weights(model, o.sharing.ratio, self.seed)
        if o.dyrelu is not None:
            put_dyrelu(model, o.dyrelu.reduction)
        return model

    def bind(self, n_weights: int, shapes: Shapes) -> None:
        super().bind(n_weights, shapes)
        o = self.options
        if o.dyrelu is not None:
            self.phase = Phase.of(o.dyrelu, self.clock)
        if o.cyclic is not None:
            self.cycle = CyclicDensity.of(o.cyclic, o.density, self.clock)
            if o.cyclic.hold_average:
                average = self.cycle.average(self.clock.total_steps)
                self.cycle, self.target_budget = None, self.budget_for(average)
                return
            n_unique = sum(math.prod(shape) for shape in shapes.values())
            if self.cycle.peak * n_weights > n_unique:
                raise HarnessError(
                    f"method.cyclic: the peak density {self.cycle.peak:g} needs {round(self.cycle.peak * n_weights)} "
                    f"weights, the network has {n_unique}: lower density or multiplier"
                )

    # --- cyclic density --------------------------------------------------------------------------------

    def in_cycles(self, step: int) -> bool:
        return self.cycle is not None and step <= self.cycle.end

    def update_due(self, step: int) -> bool:
        if self.cycle is None or not self.in_cycles(step):
            return super().update_due(step)
        assert self.options.cyclic is not None
        return step % self.options.cyclic.interval == 0 or step == self.cycle.end  # the projection onto the target

    def budgets_at(self, step: int) -> dict[str, int]:
        if self.cycle is None or step >= self.cycle.end:
            return self.target_budget
        assert self.options.cyclic is not None
        last_update = step - step % self.options.cyclic.interval
        return self.budget_for(self.cycle.at(last_update)) if last_update else self.target_budget

    def new_masks(self, step: int) -> Masks:
        if not self.in_cycles(step):
            return super().new_masks(step)
        before, budgets = self.budgets_at(step - 1), self.budgets_at(step)
        return {layer: self.move(layer, before[layer], budgets[layer]) for layer in self.shapes}

    def move(self, layer: str, n_active: int, wanted: int) -> Tensor:
        """Grow by dense gradient, or shrink by magnitude among active weights, to `wanted`."""
        mask = self.tensors.mask(layer)
        if wanted > n_active:
            return mask | top_k_mask(self.tensors.gradient(layer).abs(), wanted - n_active, among=~mask)
        return top_k_mask(self.tensors.weight(layer).abs(), wanted, among=mask)

    def n_dropped(self, n_active: int, step: int) -> int:
        return math.ceil(self.drop.at(step) * n_active)

    # --- DyReLU phasing ----------------------------------------------------------------------------------------------

    def beta(self, step: int) -> float:
        """Blend with which the step after `step` steps is taken."""
        return self.phase.beta(step) if self.phase else 0.0

    def frozen(self, step: int) -> bool:
        freeze = self.options.dyrelu.freeze_epoch if self.options.dyrelu else None
        return self.phase is not None and freeze is not None and self.phase.epoch(step) >= freeze

    def adapts_at(self, step: int) -> bool:
        return self.beta(step) != self.beta(step - 1) or self.frozen(step) != self.frozen(step - 1)

    def adapt(self, model: nn.Module, step: int) -> bool:
        activations = [m for m in model.modules() if isinstance(m, DyReLU)]
        if not activations:
            return False
        beta = self.beta(step)
        if beta == 0:
            remove_dyrelu(model)
            return True
        changed, frozen = False, self.frozen(step)
        for activation in activations:
            activation.beta.fill_(beta)
            for parameter in activation.parameters():
                changed |= parameter.requires_grad == frozen
                parameter.requires_grad_(not frozen)
        return changed

    def is_final(self, step: int) -> bool:
        return self.beta(step - 1) == 0 and (self.cycle is None or step >= self.cycle.end)

    def schedules(self, step: int) -> dict[str, float]:
        return {"dyrelu_beta": self.beta(step - 1)}  # of the last step taken: what was evaluated
