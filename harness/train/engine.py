"""What a training step asks of whatever executes it, and the engine that is torch alone (one process, or DDP)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from harness.config.schema import RunConfig
from harness.sparse.masks import LearnedMask, MaskedWeight, WeightView, masked, viewed_layers
from harness.train.compiled import compiled
from harness.train.optimizer import Readable, build_optimizer
from harness.train.ranks import Ranks

OPTIMIZER = "optimizer."
"""What the names of optimizer state in a checkpoint begin with."""


class Engine(ABC):
    """Executes a model. Tensors by name are full and fp32 whatever is sharded; every call is made on all ranks.

    `model` is the plain module; state is a mapping from names to full tensors, the same on every engine.
    """

    def __init__(self, model: nn.Module, config: RunConfig, ranks: Ranks, device: torch.device) -> None:
        self.model = model.to(device)
        self.config, self.ranks, self.device = config, ranks, device
        self.layers = viewed_layers(model)
        self._gradients: dict[str, Tensor] = {}
        self.optimizer: Readable
        self.wrap()

    # --- what an engine is -----------------------------------------------------------------------------

    @abstractmethod
    def wrap(self) -> None:
        """Make the optimizer and whatever wraps the model."""

    @abstractmethod
    def forward(self, images: Tensor, last: bool = True) -> Tensor:
        """Logits of one micro-batch; `last`: gradients are averaged over ranks in the backward pass that follows."""

    @abstractmethod
    def backward(self, loss_sum: Tensor, n_global: int, last: bool) -> None:
        """Gradient of the mean over `n_global` samples of all ranks; `last`: of the micro-batches of a step."""

    @abstractmethod
    def update(self, lr: float, skip: bool) -> None:
        """Let the optimizer step, and clear gradients; `skip` clears only."""

    @abstractmethod
    def held_gradients(self) -> list[Tensor]:
        """The averaged gradients that this rank's optimizer steps with: all of them, or its shard."""

    @abstractmethod
    def read(self, parameter: nn.Parameter) -> Tensor: ...

    @abstractmethod
    def write(self, parameter: nn.Parameter, value: Tensor) -> None: ...

    @abstractmethod
    def read_slot(self, parameter: nn.Parameter, slot: str) -> Tensor:
        """The optimizer's state for a parameter, by a name of `optimizer.slots`."""

    @abstractmethod
    def write_slot(self, parameter: nn.Parameter, slot: str, value: Tensor) -> None: ...

    @abstractmethod
    def rewrite(self, parameter: nn.Parameter, where: Tensor, value: float) -> None:
        """Set a parameter to `value` where `where`, the same on all ranks, says so."""

    @abstractmethod
    def read_gradient(self, parameter: nn.Parameter) -> Tensor: ...

    @abstractmethod
    def write_gradient(self, parameter: nn.Parameter, value: Tensor) -> None: ...

    # --- a step ----------------------------------------------------------------------------------------

    sharded: bool = False
    """Whether each rank holds a part of the gradients only."""

    def step(self, lr: float, skip: bool = False) -> None:
        """Clip, update, and clear gradients; `skip` clears only."""
        if self.config.optimizer.clip_norm and not skip:
            self.clip(self.config.optimizer.clip_norm)
        self.update(lr, skip)

    def clip(self, largest: float) -> None:
        """Scale the gradients so that their global L2 norm is at most `largest`.

        The norm is summed in fp64: its rounding to fp32 is then the same however the gradients are laid out, and
        engines agree bit for bit.
        """
        gradients = self.held_gradients()
        norms = torch.stack(torch._foreach_norm(gradients, 2, dtype=torch.float64))
        square = norms.square().sum()
        if self.sharded:
            square = self.ranks.sum(square)
        scale = (largest / (square.sqrt() + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale.float())

    # --- what methods may ask --------------------------------------------------------------------------

    def mask(self, layer: str) -> Tensor:
        parameter, view = self.layers[layer]
        return view.kept(parameter)

    def weight(self, layer: str) -> Tensor:
        return self.read(self.layers[layer][0])

    def stored(self, layer: str) -> nn.Parameter:
        return self.layers[layer][0]

    def momentum(self, layer: str) -> Tensor:
        """What the optimizer's state says of where a weight is going: SGD's momentum, Adam's first moment over the root
        of the second."""
        parameter = self.layers[layer][0]
        if "momentum" in self.optimizer.slots:
            return self.read_slot(parameter, "momentum")
        first, second = (self.read_slot(parameter, slot) for slot in ("exp_avg", "exp_avg_sq"))
        return first / (second.sqrt() + 1e-8)

    def view(self, layer: str) -> WeightView:
        return self.layers[layer][1]

    def gradient(self, layer: str) -> Tensor:
        """The averaged gradient held by `hold_gradients` in this step."""
        return self._gradients[layer]

    def counted(self) -> dict[str, Tensor] | None:
        """Active weights per layer in the last forward pass, where masks differ from step to step."""
        found = {name: view.n_kept for name, (_, view) in self.layers.items() if isinstance(view, LearnedMask)}
        return found or None

    # --- what the loop does for methods ----------------------------------------------------------------

    def use_gradient_rule(self, dense: bool) -> None:
        for _, view in self.layers.values():
            if isinstance(view, MaskedWeight):
                if isinstance(view.dense_gradient, Tensor):
                    view.dense_gradient.fill_(dense)
                else:
                    view.dense_gradient = dense

    def hold_gradients(self) -> None:
        """Keep the averaged gradients past the step, for the topology update that follows it."""
        self._gradients = {name: self.read_gradient(p).clone() for name, (p, _) in self.layers.items()}

    def drop_gradients(self) -> None:
        self._gradients = {}

    def is_finite(self) -> bool:
        """Whether all weights of masked layers, and gradients held of them, are finite."""
        held = [*(self.weight(layer) for layer in self.layers), *self._gradients.values()]
        return all(bool(torch.isfinite(tensor).all()) for tensor in held)

    def mask_gradients(self) -> None:
        """Turn dense gradients into masked ones, so that clipping and momentum see active weights only."""
        for parameter, view in self.layers.values():
            if isinstance(view, MaskedWeight):
                self.write_gradient(parameter, masked(self.read_gradient(parameter), view.mask))

    def set_mask(self, layer: str, new: Tensor) -> None:
        """Weight, master weight and optimizer state become zero wherever the view says they do not survive."""
        parameter, view = self.layers[layer]
        assert isinstance(view, MaskedWeight), f"{layer}: masks are set where a method has masks"
        weights, state = view.survivors(new)
        if weights is not None:
            self.write(parameter, masked(self.read(parameter), weights))
        if state is not None:
            for slot in self.optimizer.slots:
                self.write_slot(parameter, slot, masked(self.read_slot(parameter, slot), state))
        view.take(new)

    def reset_momentum(self) -> None:
        """Zero the optimizer's state of every parameter."""
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                for slot in self.optimizer.slots:
                    self.write_slot(parameter, slot, torch.zeros_like(parameter))
        self.optimizer.set_steps(0)

    # --- state -----------------------------------------------------------------------------------------

    def synchronise_statistics(self) -> None:
        """Average running statistics over ranks, which see different images."""
        for buffer in self.model.buffers():
            if buffer.is_floating_point() and self.ranks.world_size > 1:
                buffer.copy_(self.ranks.sum(buffer) / self.ranks.world_size)

    def state(self) -> dict[str, Tensor]:
        """Full copies on the CPU: the model's state_dict, and per trained parameter 'optimizer.<slot>.<name>'."""
        out = {name: _stored(tensor) for name, tensor in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                out[name] = _stored(self.read(parameter))
                for slot in self.optimizer.slots:
                    out[f"{OPTIMIZER}{slot}.{name}"] = _stored(self.read_slot(parameter, slot))
        out[f"{OPTIMIZER}steps"] = torch.tensor(self.optimizer.n_steps)
        return out

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state; entries for parameters that are no longer there, or no longer trained, are left out."""
        self.model.load_state_dict({name: state[name] for name in self.model.state_dict()})
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                self.write(parameter, state[name].to(self.device))
                for slot in self.optimizer.slots:
                    self.write_slot(parameter, slot, state[f"{OPTIMIZER}{slot}.{name}"].to(self.device))
        self.optimizer.set_steps(int(state[f"{OPTIMIZER}steps"]))

    def rebuild(self, state: Mapping[str, Tensor]) -> None:
        """Wrap the model anew after its set of trained parameters changed, and go on from `state`."""
        self.close()
        self.wrap()
        self.load(state)

    def close(self) -> None:  # noqa: B027
        """Release what the engine holds outside this process's ordinary memory."""

    def autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.engine.precision == "bf16")


def _stored(tensor: Tensor) -> Tensor:
    """A copy on the CPU, its numbers in the order of its shape whatever the layout on the device."""
    return tensor.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)


class TorchEngine(Engine):
    def wrap(self) -> None:
        if self.device.type == "cuda":
            self.model.to(memory_format=torch.channels_last)
            torch.backends.cudnn.benchmark = True  # shapes are fixed
        self.optimizer = build_optimizer(self.model, self.config.optimizer)
        self.optimizer.prepare()
        self._parameters = list(self.model.parameters())
        network: nn.Module = self.model
        self._averaging: DistributedDataParallel | None = None
        if self.ranks.world_size > 1:
            ids = [self.device] if self.device.type == "cuda" else None
            # buffers are masks, which are checked and must not be overwritten, and statistics, averaged when read
            network = self._averaging = DistributedDataParallel(self.model, device_ids=ids, broadcast_buffers=False)
        self.network = compiled(network, self.model, self.config, self.device)

    def forward(self, images: Tensor, last: bool = True) -> Tensor:
        if self._averaging is not None:
            self._averaging.require_backward_grad_sync = last
        if self.device.type == "cuda":
            images = images.contiguous(memory_format=torch.channels_last)
        with self.autocast():
            return self.network(images)

    def backward(self, loss_sum: Tensor, n_global: int, last: bool) -> None:
        (loss_sum * (self.ranks.world_size / n_global)).backward()

    def held_gradients(self) -> list[Tensor]:
        return [p.grad for p in self.model.parameters() if p.grad is not None]

    def update(self, lr: float, skip: bool) -> None:
        if not skip:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
        for parameter in self._parameters:  # model.zero_grad() walks all modules to find them
            parameter.grad = None

    def read(self, parameter: nn.Parameter) -> Tensor:
        return parameter.detach()

    def write(self, parameter: nn.Parameter, value: Tensor) -> None:
        parameter.detach().copy_(value)

    def read_slot(self, parameter: nn.Parameter, slot: str) -> Tensor:
        state: Tensor = self.optimizer.state[parameter][self.optimizer.slots[slot]]
        return state

    def write_slot(self, parameter: nn.Parameter, slot: str, value: Tensor) -> None:
        self.read_slot(parameter, slot).copy_(value)

    def rewrite(self, parameter: nn.Parameter, where: Tensor, value: float) -> None:
        parameter.detach().masked_fill_(where, value)  # no look at `where`: a GPU is not waited for

    def read_gradient(self, parameter: nn.Parameter) -> Tensor:
        assert parameter.grad is not None, "no gradient: the layer took no part in the forward pass"
        return parameter.grad

    def write_gradient(self, parameter: nn.Parameter, value: Tensor) -> None:
        self.read_gradient(parameter).copy_(value)
