"""Invariants that hold inside every run. A benchmark that is silently wrong is worse than one that stops."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.errors import CheckFailed
from harness.sparse.masks import Maskable, WeightView, digest, maskable_modules, stored_weight
from harness.sparse.method import Method
from harness.train.engine import Engine
from harness.train.ranks import Ranks


@dataclass(frozen=True, slots=True)
class LayerCount:
    name: str
    shape: tuple[int, ...]
    n_active: int
    n_nonzero: int


def count_layers(model: nn.Module) -> list[LayerCount]:
    """Mask count and value count of every maskable layer's effective weight."""
    out = []
    with torch.no_grad():
        for name, module in maskable_modules(model).items():
            theta, view = stored_weight(module)
            counted = theta if view is None else view.sparse_part(theta)
            mask = torch.ones_like(theta, dtype=torch.bool) if view is None else view.kept(theta)
            if bool((counted != 0)[~mask].any()):
                raise CheckFailed(f"layer {name}: an effective weight outside the mask is not zero")
            out.append(LayerCount(name, tuple(theta.shape), int(mask.sum()), int(torch.count_nonzero(counted))))
    return out


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


def check_counts(model: nn.Module, method: Method, step: int) -> list[LayerCount]:
    """Every layer holds exactly its budget at `step`, or all together their total, or none more than its ceiling."""
    counts, budgets, total = count_layers(model), method.budgets_at(step), method.total_at(step)
    for layer in counts:
        if budgets is not None and layer.n_active != budgets[layer.name]:
            raise CheckFailed(
                f"step {step}, layer {layer.name}: {layer.n_active} active weights, its budget is {budgets[layer.name]}"
            )
        if method.ceiling is not None and layer.n_active > method.ceiling[layer.name]:
            raise CheckFailed(
                f"step {step}, layer {layer.name}: {layer.n_active} active weights, above {method.ceiling[layer.name]}"
            )
    if total is not None and (found := sum(layer.n_active for layer in counts)) != total:
        raise CheckFailed(f"step {step}: {found} active weights, the budget is {total}")
    return counts


def current_masks(engine: Engine) -> dict[str, Tensor]:
    return {layer: engine.mask(layer) for layer in engine.layers}


def check_same_step(ranks: Ranks, device: torch.device, step: int) -> None:
    """All ranks continue from the same checkpoint, whatever each could read."""
    if ranks.world_size == 1:
        return
    steps = [int(s) for s in ranks.gather(torch.tensor([step], device=device))]
    if len(set(steps)) > 1:
        raise CheckFailed(f"the ranks would continue from different steps, {steps}: they do not read the same files")


def check_agreement(engine: Engine, step: int) -> None:
    """The masks of all ranks are the same: one small collective over 63-bit digests."""
    if engine.ranks.world_size == 1 or not engine.layers:
        return
    mine = digest(current_masks(engine))
    gathered = engine.ranks.gather(torch.tensor(list(mine.values()), device=engine.device))
    for rank, other in enumerate(gathered):
        differs = (other != gathered[0]).nonzero()
        if len(differs):
            layer = list(mine)[int(differs[0])]
            raise CheckFailed(f"step {step}, layer {layer}: the mask of rank {rank} differs from that of rank 0")
