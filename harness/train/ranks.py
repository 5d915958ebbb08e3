"""The process group of a run, and the few collectives the loop needs; one process needs none."""

from __future__ import annotations

import atexit
import gc
import os
import socket
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ranks:
    rank: int = 0
    world_size: int = 1

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks; the same on every rank."""
        return self._reduce(tensor, dist.ReduceOp.SUM)

    def min(self, tensor: Tensor) -> Tensor:
        return self._reduce(tensor, dist.ReduceOp.MIN)

    def max(self, tensor: Tensor) -> Tensor:
        return self._reduce(tensor, dist.ReduceOp.MAX)

    def _reduce(self, tensor: Tensor, op: dist.ReduceOp.RedOpType) -> Tensor:
        if self.world_size == 1:
            return tensor
        tensor = tensor.clone()
        dist.all_reduce(tensor, op)
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor, in the order of ranks."""
        if self.world_size == 1:
            return [tensor]
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(parts, tensor)
        return parts

    def from_first(self, mask: Tensor) -> Tensor:
        """Rank 0's boolean tensor, on every rank."""
        if self.world_size == 1:
            return mask
        sent = mask.to(torch.uint8)
        dist.broadcast(sent, 0)
        return sent.bool()

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()


def join(device: torch.device, needs_group: bool) -> Ranks:
    """Join the group that the environment describes; make a group of one where an engine needs a group."""
    if not dist.is_initialized():
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if world_size == 1 and not needs_group:
            return Ranks()
        if world_size == 1:
            os.environ.update(
                RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port())
            )
        # Both bind the group of the moment to defaults of their functions where they are imported after it is made,
        # as DistributedDataParallel does with the first, and the group then outlives `leave`.
        import torch.distributed.nn.functional  # noqa: F401

        if needs_group:
            with redirect_stdout(sys.stderr):
                import deepspeed  # noqa: F401

        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(leave)
    return Ranks(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """End the group and its threads: one that outlives the interpreter aborts a process whose work is all done."""
    if not dist.is_initialized():
        return
    comm = sys.modules.get("deepspeed.comm.comm")
    if comm is not None and comm.cdb is not None:
        comm.destroy_process_group()
    else:
        dist.destroy_process_group()
    gc.collect()  # engines are cycles that hold the group


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
