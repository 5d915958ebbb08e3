"""Invariants that hold inside every run. A benchmark that is silently wrong is worse than one that stops."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.config import RunConfig, fingerprint
from harness.errors import CheckFailed
from harness.sparse.masks import Maskable, WeightView, counts, digest, maskable_modules, stored_weight
from harness.sparse.method import Method
from harness.train.engine import Engine
from harness.train.machine import gpu_name, software
from harness.train.ranks import Ranks


@dataclass(frozen=True, slots=True)
class LayerCount:
    name: str
    shape: tuple[int, ...]
    n_active: int
    n_nonzero: int


def count_layers(model: nn.Module) -> list[LayerCount]:
    """Mask count and value count of every maskable layer's effective weight."""
    shapes, masks, nonzeros, outside = {}, {}, {}, {}
    with torch.no_grad():
        for name, module in maskable_modules(model).items():
            theta, view = stored_weight(module)
            counted = theta if view is None else view.sparse_part(theta)
            shapes[name], nonzeros[name] = tuple(theta.shape), counted != 0
            masks[name] = torch.ones_like(nonzeros[name]) if view is None else view.kept(theta)
            outside[name] = nonzeros[name] & ~masks[name]
        n_active, n_nonzero, n_outside = counts(masks), counts(nonzeros), counts(outside)
    for name, n in n_outside.items():
        if n:
            raise CheckFailed(f"layer {name}: an effective weight outside the mask is not zero")
    return [LayerCount(name, shape, n_active[name], n_nonzero[name]) for name, shape in shapes.items()]


def count_uncounted(model: nn.Module) -> dict[str, int]:
    """Trained parameters outside the density count, by kind; at extreme sparsity they outnumber the weights."""
    names = ("n_norm_parameters", "n_sigma", "n_method_parameters", "n_exempt_weights", "n_other_parameters")
    kinds = dict.fromkeys(names, 0)
    stored = {id(stored_weight(module)[0]) for module in maskable_modules(model).values()}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in stored:
                continue
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm):
                kind = "n_norm_parameters"
            elif isinstance(module, WeightView):
                kind = "n_method_parameters"
            elif isinstance(module, Maskable) and name == "weight":
                kind = "n_exempt_weights"
            else:
                kind = "n_sigma" if name == "sigma" else "n_other_parameters"
            kinds[kind] += parameter.numel()
    return kinds


@torch.no_grad()
def check_nothing_hidden(engine: Engine, step: int) -> None:
    """Where a method keeps no weights outside its mask, none came back there, e.g. from an optimizer's own copy.

    Clipping over dense gradients leaves these to the optimizer: what they move outside the mask is zeroed at updates.
    """
    if engine.config.optimizer.clip_norm > 0 and engine.config.optimizer.clip_rule == "dense":
        return
    hidden = {
        name: (theta != 0) & ~view.kept(theta)
        for name, (theta, view) in engine.layers.items()
        if view.keeps_nothing_hidden
    }
    for name, n in counts(hidden).items() if hidden else ():
        if n:
            raise CheckFailed(f"step {step}, layer {name}: a stored weight outside the mask is not zero: it came back")


def check_counts(model: nn.Module, method: Method, step: int) -> list[LayerCount]:
    """Every layer holds exactly its budget at `step`, or all together their total, or none more than its ceiling."""
    try:
        found = count_layers(model)
    except CheckFailed as error:
        raise CheckFailed(f"step {step}, {error}") from None
    budgets, total = method.budgets_at(step), method.total_at(step)
    for layer in found:
        if budgets is not None and layer.n_active != budgets[layer.name]:
            raise CheckFailed(
                f"step {step}, layer {layer.name}: {layer.n_active} active weights, its budget is {budgets[layer.name]}"
            )
        if method.ceiling is not None and layer.n_active > method.ceiling[layer.name]:
            raise CheckFailed(
                f"step {step}, layer {layer.name}: {layer.n_active} active weights, above {method.ceiling[layer.name]}"
            )
    if total is not None and (n_active := sum(layer.n_active for layer in found)) != total:
        raise CheckFailed(f"step {step}: {n_active} active weights, the budget is {total}")
    return found


def current_masks(engine: Engine) -> dict[str, Tensor]:
    return {layer: engine.mask(layer) for layer in engine.layers}


def check_same_run(ranks: Ranks, device: torch.device, config: RunConfig, seed: int, step: int) -> None:
    """All ranks train one run and continue from one checkpoint, whatever each was told and could read."""
    if ranks.world_size == 1:
        return
    facts = {"seed": seed, "configuration": int(fingerprint(config), 16), "step to continue from": step}
    words = {"software": software(), "GPU": gpu_name(device)}
    told = [*facts.values(), *(byte for text in words.values() for byte in _bytes_of(text, WORDS_LENGTH))]
    gathered = [other.tolist() for other in ranks.gather(torch.tensor(told, device=device))]
    for rank, other in enumerate(gathered):
        for i, name in enumerate(facts):
            there, here = other[i], gathered[0][i]
            if there != here:
                shown = f"{there:010x}, not {here:010x}" if name == "configuration" else f"{there}, not {here}"
                raise CheckFailed(f"rank {rank} trains another run than rank 0: {name} {shown}")
        for i, name in enumerate(words):
            part = slice(len(facts) + i * WORDS_LENGTH, len(facts) + (i + 1) * WORDS_LENGTH)
            if other[part] != gathered[0][part]:
                there, here = _text_of(other[part]), _text_of(gathered[0][part])
                raise CheckFailed(
                    f"rank {rank} has another {name} than rank 0: {there}, not {here}: a run needs one on all"
                )


def _bytes_of(text: str, length: int) -> list[int]:
    return list(text.encode()[:length].ljust(length))


def _text_of(numbers: list[int]) -> str:
    return bytes(numbers).decode(errors="ignore").strip()


FAULT_LENGTH = 200
WORDS_LENGTH = 160


def check_masks(engine: Engine, method: Method, step: int) -> list[LayerCount]:
    """Counts are right on every rank, and the masks of all ranks the same: one small collective over 63-bit digests.

    What is wrong on one rank is raised on all, or the others would wait for it.
    """
    found, fault = [], ""
    try:
        found = check_counts(engine.model, method, step)
        check_nothing_hidden(engine, step)
    except CheckFailed as error:
        if engine.ranks.world_size == 1:
            raise
        fault = str(error)
    if engine.ranks.world_size == 1:
        return found
    mine = digest(current_masks(engine))
    told = [*mine.values(), *_bytes_of(fault, FAULT_LENGTH)]
    gathered = engine.ranks.gather(torch.tensor(told, device=engine.device))
    for rank, other in enumerate(gathered):
        said = _text_of(other[len(mine) :].tolist())
        if said:
            raise CheckFailed(f"rank {rank}: {said}")
    differing = _first_difference(gathered, list(mine))
    if differing is not None:
        rank, layer = differing
        raise CheckFailed(f"step {step}, layer {layer}: the mask of rank {rank} differs from that of rank 0")
    return found


@torch.no_grad()
def check_weights(engine: Engine, step: int) -> None:
    """What is trained is the same on every rank, to the last bit, as averaged gradients leave it."""
    if engine.ranks.world_size == 1:
        return
    trained = {name: parameter for name, parameter in engine.model.named_parameters() if parameter.requires_grad}
    mine = torch.stack([_digest_of_values(parameter) for parameter in trained.values()])
    differing = _first_difference(engine.ranks.gather(mine), list(trained))
    if differing is not None:
        rank, name = differing
        raise CheckFailed(
            f"step {step}, parameter {name.replace('.parametrizations.weight.original', '.weight')}: rank {rank} holds "
            f"other values than rank 0: its gradients were not averaged, or its updates differ"
        )


def _digest_of_values(tensor: Tensor) -> Tensor:
    """64 bits over values and places, on the device: a sum of the values' bits times odd numbers, modulo 2^64."""
    bits = tensor.detach().reshape(-1).view(torch.int32 if tensor.element_size() == 4 else torch.int16).long()
    places = torch.arange(bits.numel(), device=bits.device)
    return (bits * (places * 0x5851F42D4C957F2D + 0x14057B7EF767814F | 1)).sum()


def _first_difference(gathered: list[Tensor], names: list[str]) -> tuple[int, str] | None:
    """The first rank whose numbers differ from rank 0's, and the name of the first that does."""
    for rank, other in enumerate(gathered):
        differs = (other != gathered[0])[: len(names)].nonzero()
        if len(differs):
            return rank, names[int(differs[0])]
    return None
