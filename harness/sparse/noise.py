"""Noise keyed by what it is for: the same on every rank, on every engine, and after a resume."""

from __future__ import annotations

import hashlib

import torch


def key_of(*parts: str | int) -> int:
    """63 bits from a sequence of words and numbers, e.g. (seed, purpose, layer, step)."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def seed_torch(device: torch.device, key: int) -> None:
    """Start torch's own generators, of the CPU and of a device, which layers such as dropout draw from.

    torch.manual_seed does the same for every kind of device, and formats the call stack for each that is not in use:
    a tenth of the step of a small network.
    """
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(key)


def keyed_uniform(like: torch.Tensor, *parts: str | int) -> torch.Tensor:
    """Numbers between 0 and 1 in the shape of a tensor, drawn on its device: others on a CPU than on a GPU."""
    generator = torch.Generator(like.device).manual_seed(key_of(*parts))
    return torch.rand(like.shape, generator=generator, device=like.device)


def keyed_generator(*parts: str | int) -> torch.Generator:
    """A CPU generator that depends on nothing but its key."""
    return torch.Generator().manual_seed(key_of(*parts))
