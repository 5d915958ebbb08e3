"""Exact selection of the k largest, with ties in a fixed order, so that equal scores give equal masks everywhere."""

from __future__ import annotations

import torch
from torch import Tensor


class ScoreNotANumber(ValueError):
    """A candidate's score is not a number: the network has diverged."""


def top_k_mask(scores: Tensor, k: int, among: Tensor | None = None) -> Tensor:
    """Keep exactly `k` entries, the largest; ties go to the lower flat index.

    scores: any shape. among: boolean, same shape; only these positions may be chosen.
    Returns a boolean mask of the same shape. Raises ValueError if fewer than `k` positions are candidates,
    ScoreNotANumber if a candidate's score is not a number.
    """
    chosen = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    flat = scores.reshape(-1)
    if among is not None:
        candidates = among.reshape(-1).nonzero().squeeze(1)
        chosen[candidates[_top_k(flat[candidates], k)]] = True
    else:
        chosen[_top_k(flat, k)] = True
    return chosen.view(scores.shape)


def _top_k(flat: Tensor, k: int) -> Tensor:
    """Flat indices of the k largest values of a vector, the lower index first among equals."""
    if not 0 <= k <= flat.numel():
        raise ValueError(f"cannot keep {k} of {flat.numel()} candidates")
    if k == 0:
        return flat.new_zeros(0, dtype=torch.long)
    if torch.isnan(flat).any():
        raise ScoreNotANumber("a score is not a number")
    threshold = torch.topk(flat, k, sorted=False).values.min()
    above = (flat > threshold).nonzero().squeeze(1)
    at = (flat == threshold).nonzero().squeeze(1)
    return torch.cat([above, at[: k - above.numel()]])


def random_mask(like: Tensor | torch.Size, k: int, generator: torch.Generator) -> Tensor:
    """Exactly `k` positions drawn uniformly without replacement on the CPU."""
    shape = like if isinstance(like, torch.Size) else like.shape
    n = shape.numel()
    if not 0 <= k <= n:
        raise ValueError(f"cannot keep {k} of {n} positions")
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[torch.randperm(n, generator=generator)[:k]] = True
    return chosen.view(shape)


def random_places(among: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Flat indices of exactly `k` of the positions in `among`, drawn uniformly without replacement.

    Positions are drawn until `k` different ones are found, so a few of many cost little. generator: on the CPU.
    Returns int64, on the device of `among`. Raises ValueError if fewer than `k` positions are candidates.
    """
    flat, n_candidates = among.reshape(-1), int(torch.count_nonzero(among))
    if not 0 <= k <= n_candidates:
        raise ValueError(f"cannot draw {k} of {n_candidates} candidates")
    found: dict[int, None] = {}  # in the order drawn
    while len(found) < k:
        draw = torch.randint(len(flat), (k * len(flat) // n_candidates + 1,), generator=generator).to(flat.device)
        found.update(dict.fromkeys(draw[flat[draw]].tolist()))
    return torch.tensor(list(found)[:k], dtype=torch.long, device=flat.device)
