from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from harness.data.batches import Loader, Split
from harness.errors import CheckFailed
from harness.train.engine import Engine


@dataclass(frozen=True, slots=True)
class Score:
    accuracy: float
    """Top-1, 0 to 1."""

    loss: float


@torch.no_grad()
def evaluate(engine: Engine, loader: Loader, split: Split) -> Score:
    """Each sample counted once over all ranks, and the total asserted."""
    engine.model.eval()
    totals = torch.zeros(3, dtype=torch.float64, device=engine.device)
    for batch in loader.evaluate(split):
        logits = engine.forward(batch.images).float()
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        right = logits.argmax(1) == batch.labels
        totals += torch.stack([(right * batch.weight).sum(), (losses * batch.weight).sum(), batch.weight.sum()])
    engine.model.train()
    right_sum, loss_sum, n = engine.ranks.sum(totals).tolist()
    if n != loader.sizes[split]:
        raise CheckFailed(f"evaluation counted {n:.0f} samples of the {loader.sizes[split]} in {split}")
    return Score(right_sum / n, loss_sum / n)
