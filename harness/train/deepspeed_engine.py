"""DeepSpeed, stages 0 to 2, through its public full-tensor accessors."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from harness.train.compiled import compiled
from harness.train.engine import Engine
from harness.train.optimizer import Readable, build_optimizer


class DeepSpeedEngine(Engine):
    def wrap(self) -> None:
        with redirect_stdout(sys.stderr):  # DeepSpeed talks on stdout, which belongs to the command's answer
            import deepspeed
            import deepspeed.ops

        # collectives of inference: a minute of compiling at the first start on a CPU, for what training never calls
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.sharded = self.config.engine.zero_stage > 0
        self.network = compiled(self.model, self.model, self.config, self.device)
        self.optimizer: Readable = build_optimizer(self.model, self.config.optimizer)
        with redirect_stdout(sys.stderr):
            self.engine, *_ = deepspeed.initialize(
                model=self.network, optimizer=self.optimizer, config=self._settings(), dist_init_required=False
            )
        self.optimizer.prepare()
        if self.sharded:
            # the shards of momentum become readable by name; DeepSpeed itself does so only after the first step
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _settings(self) -> dict[str, Any]:
        engine = self.config.engine
        settings: dict[str, Any] = {
            "train_batch_size": self.config.data.batch_size,
            "gradient_accumulation_steps": engine.accumulation,
            "gradient_clipping": 0.0,  # ours does; left out, DeepSpeed clips at 1.0
            "zero_optimization": {"stage": engine.zero_stage},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 1 << 30,
        }
        if engine.precision == "bf16":
            settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
        return settings

    def forward(self, images: Tensor, last: bool = True) -> Tensor:
        if self.model.training:
            return self.engine(images)
        with self.autocast():
            return self.network(images)

    def backward(self, loss_sum: Tensor, n_global: int, last: bool) -> None:
        accumulation = self.config.engine.accumulation
        self.engine.backward(loss_sum * (self.ranks.world_size * accumulation / n_global))
        if not last:
            self.engine.step()  # counts the micro-batch; updates nothing before the last

    def held_gradients(self) -> list[Tensor]:
        if self.sharded:
            return [g for group in self.engine.optimizer.averaged_gradients.values() for g in group]
        return [p.grad for p in self.model.parameters() if p.grad is not None]

    def update(self, lr: float, skip: bool) -> None:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.skip = skip
        self.engine.step()
        self.optimizer.skip = False

    def close(self) -> None:
        self.engine.destroy()

    def read(self, parameter: nn.Parameter) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(parameter) if self.sharded else parameter.detach()

    def write(self, parameter: nn.Parameter, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param

        if self.sharded:
            safe_set_full_fp32_param(parameter, value)
        parameter.detach().copy_(value)  # the network reads this one until the next step

    def read_slot(self, parameter: nn.Parameter, slot: str) -> Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        key = self.optimizer.slots[slot]
        state: Tensor = (
            safe_get_full_optimizer_state(parameter, key) if self.sharded else self.optimizer.state[parameter][key]
        )
        return state

    def write_slot(self, parameter: nn.Parameter, slot: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        if self.sharded:
            safe_set_full_optimizer_state(parameter, value, self.optimizer.slots[slot])
        else:
            self.read_slot(parameter, slot).copy_(value)

    def rewrite(self, parameter: nn.Parameter, where: Tensor, value: float) -> None:
        if bool(where.any()):  # the master is in shards: only written where there is something to write
            self.write(parameter, self.read(parameter).masked_fill(where, value))

    def read_gradient(self, parameter: nn.Parameter) -> Tensor:
        from deepspeed.utils import safe_get_full_grad

        gradient = safe_get_full_grad(parameter)
        assert gradient is not None, "no gradient: the layer took no part in the forward pass"
        return gradient.to(torch.float32)

    def write_gradient(self, parameter: nn.Parameter, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_grad

        safe_set_full_grad(parameter, value)
