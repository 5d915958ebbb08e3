"""What a run will do over time, before it does it: schedules are pure functions of the step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from harness.config.schema import RunConfig
from harness.data.batches import Share
from harness.data.open import open_data
from harness.train.job import build_network, clock_of
from harness.train.optimizer import build_rate


@dataclass(frozen=True, slots=True)
class Moment:
    epoch: float
    learning_rate: float
    n_active: int | None
    beta: float
    update: bool


def preview(config: RunConfig) -> list[Moment]:
    """One entry per optimizer step, the state after it."""
    loader = open_data(config.data, 0, Share(), torch.device("cpu"), config.evaluation.batch_size)
    clock = clock_of(config, loader.sizes["train"])
    _, method = build_network(config, 0, clock, loader.inputs)
    rate = build_rate(config.schedule, config.optimizer.lr, clock.schedule_steps)
    return [
        Moment(
            epoch=step / clock.steps_per_epoch,
            learning_rate=rate.at(method.schedule_step(step - 1)),
            n_active=method.total_at(step),
            beta=method.schedules(step).get("dyrelu_beta", 0.0),
            update=method.update_due(step),
        )
        for step in range(1, clock.total_steps + 1)
    ]


def draw_preview(moments: list[Moment], title: str, path: Path) -> None:
    """Active weights, beta where there is one, and learning rate, one under the other; topology updates as ticks."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    epochs = [m.epoch for m in moments]
    has_beta = any(m.beta for m in moments)
    n_rows = 3 if has_beta else 2
    figure, rows = plt.subplots(n_rows, 1, sharex=True, figsize=(7, 1.4 + 1.4 * n_rows), layout="constrained")
    if all(m.n_active is None for m in moments):
        rows[0].text(0.5, 0.5, "comes out of training", ha="center", transform=rows[0].transAxes)
        rows[0].set_yticks([])
    else:
        rows[0].step(epochs, [m.n_active for m in moments], where="post", color="#c1272d")
        updates = [m for m in moments if m.update]
        ticks = [m.n_active for m in updates]
        rows[0].plot([m.epoch for m in updates], ticks, "|", color="black", label="topology update")
        rows[0].set_ylim(bottom=0)
        rows[0].legend(frameon=False, fontsize=8)
    rows[0].set_ylabel("active weights")
    if has_beta:
        rows[1].step(epochs, [m.beta for m in moments], where="post", color="#0071bc")
        rows[1].set_ylabel("DyReLU's beta")
    rows[-1].plot(epochs, [m.learning_rate for m in moments], color="#2a9d4a")
    rows[-1].set_ylabel("learning rate")
    rows[-1].set_xlabel("epoch")
    rows[0].set_title(title, fontsize=11)
    for axes in rows:
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
    plt.close(figure)
