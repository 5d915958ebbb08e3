"""Exact selection of the k largest, with ties in a fixed order, so that equal scores give equal masks everywhere."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from harness.sparse.kth import kth_largest
from harness.sparse.masks import counts


class ScoreNotANumber(ValueError):
    """A candidate's score is not a number: the network has diverged."""


FEW = 0.25
"""Candidates are gathered where they are fewer than this share of all."""


def top_k_mask(scores: Tensor, k: int, among: Tensor | None = None) -> Tensor:
    """Keep exactly `k` entries, the largest; ties go to the lower flat index.

    scores: any shape. among: boolean, same shape; only these positions may be chosen.
    Returns a boolean mask of the same shape. On the CPU it raises ValueError if fewer than `k` positions are
    candidates, ScoreNotANumber if a candidate's score is not a number. A GPU is not waited for: there the mask has
    another number of entries then, and the count that follows every topology update tells.
    """
    flat = scores.detach().reshape(-1)
    candidates = among.reshape(-1) if among is not None else None
    choose = _on_host if flat.device.type == "cpu" else _on_device
    return choose(flat, k, candidates).view(scores.shape)


def _on_host(flat: Tensor, k: int, candidates: Tensor | None) -> Tensor:
    values = (flat if flat.dtype in (torch.float32, torch.float64) else flat.double()).numpy()
    allowed = candidates.numpy() if candidates is not None else None
    n_candidates = np.count_nonzero(allowed) if allowed is not None else values.size
    if not 0 <= k <= n_candidates:
        raise ValueError(f"cannot keep {k} of {n_candidates} candidates")
    if k == 0:
        return torch.zeros(values.size, dtype=torch.bool)
    if allowed is None:
        threshold = kth_largest(values, k)
    elif n_candidates < FEW * values.size:
        threshold = kth_largest(values[allowed], k)
    else:
        threshold = kth_largest(np.where(allowed, values, -math.inf), k)
    if np.isnan(threshold):
        raise ScoreNotANumber("a score is not a number")
    chosen = values >= threshold
    if allowed is not None:
        chosen &= allowed
    if surplus := np.count_nonzero(chosen) - k:  # equal to the threshold; the last of them have to go
        at_threshold = (chosen & (values == threshold)).nonzero()[0]
        chosen[at_threshold[-surplus:]] = False
    return torch.from_numpy(chosen)


def _on_device(flat: Tensor, k: int, candidates: Tensor | None) -> Tensor:
    """The same without a look at any value from the host."""
    if k == 0:
        return torch.zeros_like(flat, dtype=torch.bool)
    ranked = flat if flat.is_floating_point() else flat.double()
    if candidates is not None:
        ranked = torch.where(candidates, ranked, -math.inf)
    if k <= flat.numel() // 2:
        threshold = torch.topk(ranked, k, sorted=False).values.min()
    else:  # the same number, as one of the smallest
        threshold = torch.topk(ranked, flat.numel() - k + 1, largest=False, sorted=False).values.max()
    above, at_threshold = ranked > threshold, ranked == threshold
    if candidates is not None:
        at_threshold &= candidates
    chosen = above | (at_threshold & (at_threshold.cumsum(0) <= k - above.sum()))
    return chosen & ~torch.isnan(ranked).any()


def random_mask(like: Tensor | torch.Size, k: int, generator: torch.Generator) -> Tensor:
    """Exactly `k` positions drawn uniformly without replacement on the CPU."""
    shape = like if isinstance(like, torch.Size) else like.shape
    n = shape.numel()
    if not 0 <= k <= n:
        raise ValueError(f"cannot keep {k} of {n} positions")
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[torch.randperm(n, generator=generator)[:k]] = True
    return chosen.view(shape)


def places(mask: Tensor) -> Tensor:
    """Flat indices of a mask's entries, int64, in order."""
    flat = mask.reshape(-1)
    if flat.device.type == "cpu":  # many times as fast where few are set
        return torch.from_numpy(np.flatnonzero(flat.numpy()))
    return flat.nonzero().squeeze(1)


def random_places(among: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Flat indices of exactly `k` of the positions in `among`, drawn uniformly without replacement.

    Positions are drawn until `k` different ones are found, so a few of many cost little. generator: on the CPU.
    Returns int64, on the device of `among`. Raises ValueError if fewer than `k` positions are candidates.
    """
    flat = among.reshape(-1)
    n_candidates = counts({"": flat})[""]
    if not 0 <= k <= n_candidates:
        raise ValueError(f"cannot draw {k} of {n_candidates} candidates")
    found: dict[int, None] = {}  # in the order drawn
    while len(found) < k:
        draw = torch.randint(len(flat), (k * len(flat) // n_candidates + 1,), generator=generator).to(flat.device)
        found.update(dict.fromkeys(draw[flat[draw]].tolist()))
    return torch.tensor(list(found)[:k], dtype=torch.long, device=flat.device)
