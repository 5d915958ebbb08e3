"""Exact selection of the k largest beside torch's own, on one thread of a CPU, or on a GPU.

On a CPU twice: as a process is, and with freed memory kept as in a run of the harness (`keep_memory`), which spares
torch.topk and torch.sort half of their time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.contenders import device
from benchmarks.figures import Figure, ratios, show, take_turns
from harness.sparse.kth import kth_largest
from harness.sparse.selection import top_k_mask
from harness.train.machine import keep_memory
from harness.train.profile import wait_for


def run(smoke: bool) -> dict[str, Any]:
    where = device()
    torch.set_num_threads(1)
    figures = list(beside_torch(smoke, where, ""))
    if where.type == "cpu":
        keep_memory()
        figures += beside_torch(smoke, where, ", memory kept")
    show(f"selection on {where.type}", figures)
    return {"figures": [figure.plain() for figure in figures]}


def beside_torch(smoke: bool, where: torch.device, how: str) -> Iterator[Figure]:
    n, rounds = 200_000 if smoke else 25_000_000, 2 if smoke else 5
    scores = torch.randn(n, generator=torch.Generator().manual_seed(0)).abs().to(where)
    for density in (0.01, 0.1, 0.5):
        k = int(density * n)

        def own(k: int = k) -> None:
            top_k_mask(scores, k)
            wait_for(where)

        def topk(k: int = k) -> None:
            mask = torch.zeros_like(scores, dtype=torch.bool)
            mask[torch.topk(scores, k, sorted=False).indices] = True
            wait_for(where)

        def sort(k: int = k) -> None:
            mask = torch.zeros_like(scores, dtype=torch.bool)
            mask[torch.sort(scores, descending=True, stable=True).indices[:k]] = True
            wait_for(where)

        taken = take_turns({"own": own, "topk": topk, "sort": sort}, rounds)
        note = f"{1000 * min(taken['own']):.0f} ms for {n:,} scores, mask included"
        share = f"{100 * density:g} % kept{how}"
        yield Figure(
            f"selection over torch.topk, {share}", ratios(taken["own"], taken["topk"]), 0.15, 0.06, note=note,
            profile=parts(scores, k, min(taken["own"]), min(taken["topk"])) if where.type == "cpu" else (),
        )  # fmt: skip
        yield Figure(f"selection over torch.sort, {share}", ratios(taken["own"], taken["sort"]), 0.02, 0.01)


def parts(scores: torch.Tensor, k: int, own_s: float, topk_s: float) -> tuple[tuple[str, float, float], ...]:
    """Milliseconds that finding takes of each, and making the mask the rest."""
    found = take_turns(
        {"own": lambda: kth_largest(scores.numpy(), k), "topk": lambda: torch.topk(scores, k, sorted=False)}, 3
    )
    kth, topk = (min(found[name]) for name in ("own", "topk"))
    return ("in all: finding them", 1000 * kth, 1000 * topk), (
        "in all: the mask",
        1000 * (own_s - kth),
        1000 * (topk_s - topk),
    )
