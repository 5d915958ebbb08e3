"""torch.compile around a network: one program to train with and one to evaluate with, and none for what is seldom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.config.schema import RunConfig
from harness.errors import HarnessError
from harness.sparse.masks import MaskedWeight, viewed_layers

COMPILER: str | Callable[..., Any] = "inductor"
Kind = Literal["off", "on", "graphs"]


def kind_of(config: RunConfig, device: torch.device) -> Kind:
    engine = config.engine
    if engine.compile != "auto":
        return engine.compile
    if device.type != "cuda":
        return "off"
    return "graphs" if engine.workers == engine.accumulation == 1 and engine.name == "torch" else "on"


class Compiled(nn.Module):
    """Runs batches of the usual sizes compiled, others, such as the last of an epoch, as they are.

    train_size, eval_size: images of a forward pass on this rank.
    """

    def __init__(self, network: nn.Module, model: nn.Module, kind: Kind, train_size: int, eval_size: int) -> None:
        super().__init__()
        # Programs of an earlier network in this process count towards a limit, beyond which torch compiles no more.
        torch.compiler.reset()
        self.network, self.model, self.usual = network, model, {True: train_size, False: eval_size}
        self._share_gradient_rule()
        self.graphs = kind == "graphs"
        mode = "reduce-overhead" if self.graphs and COMPILER == "inductor" else None
        self.program = torch.compile(network, backend=COMPILER, mode=mode, dynamic=False)

    def forward(self, images: Tensor) -> Tensor:
        if len(images) != self.usual[self.model.training]:
            with torch.compiler.set_stance("force_eager"):
                return self.network(images)
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            return self.program(images)
        except RuntimeError as error:
            cause = getattr(error, "inner_exception", None)  # of BackendCompilerFailed, which is slow to import
            if cause is None:
                raise
            reason = (str(cause).strip() or type(cause).__name__).splitlines()[0][:200]
            raise HarnessError(
                f"torch.compile failed ({reason}): it needs a C compiler; --set engine.compile=off trains without it"
            ) from error

    def _share_gradient_rule(self) -> None:
        """As a tensor, one program serves both rules."""
        for _, view in viewed_layers(self.model).values():
            if isinstance(view, MaskedWeight):
                view.dense_gradient = torch.zeros((), dtype=torch.bool, device=view.mask.device)


def compiled(network: nn.Module, model: nn.Module, config: RunConfig, device: torch.device) -> nn.Module:
    """The network as it is to be called. model: it without what averages its gradients over ranks."""
    kind = kind_of(config, device)
    if kind == "off":
        return network
    n_parts = config.engine.workers * config.engine.accumulation
    eval_size = -(-config.evaluation.batch_size // n_parts) * config.engine.accumulation
    return Compiled(network, model, kind, config.data.batch_size // n_parts, eval_size)
