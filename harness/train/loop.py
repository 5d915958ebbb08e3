"""The training loop of every method on every engine."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.data.batches import Batch
from harness.errors import CheckFailed, Diverged, Interrupted
from harness.sparse.ledger import measure
from harness.sparse.noise import key_of, seed_torch
from harness.sparse.selection import ScoreNotANumber
from harness.track.record import STOP_NOTE
from harness.train.checkpoint import save_checkpoint
from harness.train.checks import check_masks, check_weights
from harness.train.evaluate import Score, evaluate
from harness.train.job import Job

NEVER = 1 << 40


@dataclass(slots=True)
class Progress:
    """Everything a resume needs beside tensors. `step`: optimizer steps taken."""

    step: int = 0
    best_validation: float = -1.0
    best_step: int = 0
    test_at_best: float = 0.0
    train_seconds: float = 0.0
    loading_seconds: float = 0.0
    """Of those, in which training waited for its loader."""

    window_loss: float = 0.0
    """Sum of losses since the last evaluation, over all ranks; with `window_images`, where the next report starts."""

    window_images: int = 0
    last: dict[str, Any] = field(default_factory=dict)


SAVED = "saved."
"""What the names of an earlier state in a checkpoint begin with."""


class StopRequest:
    """Whether SIGTERM, SIGINT or a note in the run's folder asked this run to save and leave."""

    LOOK_EVERY_S = 0.5

    def __init__(self) -> None:
        self.signalled = False
        self._note_path: Path | None = None
        self._looked_at = 0.0
        self._noted = False

    def watch(self, run_dir: Path) -> None:
        self._note_path = run_dir / STOP_NOTE

    @property
    def asked(self) -> bool:
        now = time.monotonic()
        if not self._noted and self._note_path is not None and now - self._looked_at > self.LOOK_EVERY_S:
            self._looked_at = now
            self._noted = self._note_path.exists()
        return self.signalled or self._noted

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals ask, instead of what they do outside."""
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)  # None: set outside Python

    def _ask(self, number: int, frame: object) -> None:
        if self.signalled:
            raise KeyboardInterrupt
        self.signalled = True


def train(job: Job, progress: Progress, stop: StopRequest) -> Iterator[dict[str, Any]]:
    """Train from where `progress` stands to the end; yields each evaluation as it is recorded."""
    clock, every = job.clock, max(1, round(job.config.evaluation.every_epochs * job.clock.steps_per_epoch))
    meter = Meter(job.engine.device)
    meter.resume(progress, job.engine.ranks.rank)
    saved_at = time.monotonic()
    for step in steps(job, progress, meter):
        finished = step == clock.total_steps
        if step % every == 0 or finished:
            meter.check(job, progress)
            yield report(job, progress, meter)
            due = time.monotonic() - saved_at >= job.config.evaluation.checkpoint_seconds
            if any_rank(job, due) and not finished:
                save(job, progress, meter)
                saved_at = time.monotonic()
        if asked_to_stop(job, stop, step) and not finished:
            meter.check(job, progress)
            save(job, progress, meter)
            raise Interrupted(f"stopped at step {step} of {clock.total_steps}, saved: the same command continues it")


def steps(job: Job, progress: Progress, meter: Meter) -> Iterator[int]:
    """Take optimizer steps from where `progress` stands to the end; yields the number of each when it is done."""
    clock = job.clock
    while progress.step < clock.total_steps:
        first_batch = progress.step % clock.steps_per_epoch
        for batch in meter.waited(job, job.loader.train(clock.epoch(progress.step), first_batch)):
            with job.parts("method"):
                adapt(job, progress.step)
            try:
                loss = take_step(job, progress.step + 1, batch)
            except ScoreNotANumber:
                meter.check(job, progress)
                raise diverged("a weight or gradient", progress.step + 1, progress) from None
            progress.step += 1
            meter.add(loss, batch.n_global, progress.step)
            job.parts.stepped(job)
            yield progress.step
            if progress.step == clock.total_steps:
                return


def adapt(job: Job, step: int) -> None:
    """The model as the method wants it after `step` steps; the engine is built again if its parameters changed."""
    if step > 0 and job.method.adapts_at(step) and job.method.adapt(job.engine.model, step):
        job.engine.rebuild(job.engine.state())
        job.ledger.geometry = measure(job.engine.model, job.loader.inputs.channels, job.loader.inputs.size)
    if job.method.starts_round(step):
        start_round(job, step)


@torch.no_grad()
def start_round(job: Job, step: int) -> None:
    """The network of the next round: earlier weights under masks of the trained ones. What was trained is evaluated."""
    engine, masks = job.engine, job.method.new_masks(step)
    engine.load(job.saved)
    for layer, mask in masks.items():
        engine.set_mask(layer, mask)
    engine.reset_momentum()
    if job.average is not None:
        job.average.restart()
    job.ledger.n_active = {c.name: c.n_active for c in check_masks(engine, job.method, step + 1)}


def take_step(job: Job, step: int, batch: Batch) -> Tensor:
    """One optimizer step, and the topology update due after it. Returns this rank's sum of losses, not synchronised."""
    engine, method, optimizer, parts = job.engine, job.method, job.config.optimizer, job.parts
    seed_torch(engine.device, key_of(job.seed, "step", step, engine.ranks.rank))  # nothing to restore
    clips_dense = optimizer.clip_norm > 0 and optimizer.clip_rule == "dense"
    needs_gradient = method.needs_gradient(step)
    with parts("method"):
        method.before_step(step)
        engine.use_gradient_rule(dense=clips_dense or needs_gradient)
    loss_sum: Tensor | None = None
    size = len(batch.labels) // job.config.engine.accumulation
    for start in range(0, len(batch.labels), size):
        part = slice(start, start + size)
        last = start + size == len(batch.labels)
        with parts("forward"):
            logits = engine.forward(batch.images[part], last).float()
            losses = F.cross_entropy(
                logits, batch.labels[part], reduction="none", label_smoothing=optimizer.label_smoothing
            )
            part_sum = (losses * batch.weight[part]).sum()
            loss_sum = part_sum.detach() if loss_sum is None else loss_sum + part_sum.detach()
            if (extra := method.extra_loss()) is not None:  # each part adds its share, in the unit of a sum over images
                n_parts = engine.ranks.world_size * job.config.engine.accumulation
                part_sum = part_sum + extra * (batch.n_global / n_parts)
        with parts("backward"):
            engine.backward(part_sum, batch.n_global, last)
    with parts("method"):
        if needs_gradient:
            engine.hold_gradients()
            if not clips_dense:
                engine.mask_gradients()
        trained = job.ledger.sizes if clips_dense or needs_gradient else method.trained_at(step)
        job.ledger.add(batch.n_global, trained, engine.counted())
    with parts("optimizer"):
        engine.step(job.rate.at(method.schedule_step(step - 1)), skip=method.replaces_step(step))
    with parts("method"):
        if method.saves_at(step):
            job.saved = engine.state()
        if method.update_due(step):
            update_topology(job, step)
        if job.average is not None:
            job.average.update()
    assert loss_sum is not None, "a batch holds an image"
    return loss_sum


@torch.no_grad()
def update_topology(job: Job, step: int) -> None:
    """New masks from the method, applied and checked: exact counts, and the same on every rank."""
    engine = job.engine
    for layer, mask in job.method.new_masks(step).items():
        engine.set_mask(layer, mask)
    if job.method.resets_momentum(step):
        engine.reset_momentum()
    try:
        found = check_masks(engine, job.method, step)
    except CheckFailed:
        if engine.is_finite():
            raise
        raise ScoreNotANumber("a score is not a number") from None  # on a GPU, which then chose nothing
    engine.drop_gradients()
    job.ledger.n_active = {c.name: c.n_active for c in found}


class Meter:
    """Sums between two evaluations. Losses stay where they are until they are read: that is the only synchronisation,
    and a step adds no work to its device."""

    KEPT = 1000
    """Losses that are kept as tensors of their own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reset()

    def reset(self) -> None:
        self._losses: list[Tensor] = []
        self._stacks: list[Tensor] = []
        self._step, self._sum, self._bad_step = 0, 0.0, NEVER
        self.n_images = 0
        self.waited_s = 0.0
        self.started = time.monotonic()

    def resume(self, progress: Progress, rank: int) -> None:
        """Start from the window that a checkpoint was taken in; rank 0 holds what all ranks had."""
        self.n_images = progress.window_images
        self._sum = progress.window_loss if rank == 0 else 0.0

    @property
    def loss_sum(self) -> Tensor:
        """Of this rank, in fp64, in the order of steps."""
        self._read()
        return torch.tensor(self._sum, dtype=torch.float64, device=self.device)

    def _read(self) -> None:
        self._stack()
        values = torch.cat(self._stacks).tolist() if self._stacks else []
        for step, value in enumerate(values, self._step + 1 - len(values)):
            self._sum += value
            if not math.isfinite(value):
                self._bad_step = min(self._bad_step, step)
        self._stacks = []

    def _stack(self) -> None:
        if self._losses:
            self._stacks.append(torch.stack(self._losses))
            self._losses = []

    def waited(self, job: Job, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches of an epoch; what it takes to get each is added up."""
        while True:
            began = time.perf_counter()
            with job.parts("load"):
                batch = next(batches, None)
            self.waited_s += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def add(self, loss: Tensor, n_images: int, step: int) -> None:
        self._losses.append(loss)
        if len(self._losses) == self.KEPT:
            self._stack()
        self._step = step
        self.n_images += n_images

    def check(self, job: Job, progress: Progress) -> None:
        """Account the time; raise Diverged at a loss that was not finite, with its step and the last good numbers."""
        self._read()
        bad_step = int(job.engine.ranks.min(torch.tensor(self._bad_step, device=self.device)))
        progress.train_seconds += time.monotonic() - self.started
        progress.loading_seconds += self.waited_s
        if bad_step < NEVER:
            raise diverged("the loss", bad_step, progress)


def diverged(what: str, step: int, progress: Progress) -> Diverged:
    shown = [f"{name} {progress.last[name]:.4g}" for name in ("step", "train_loss", "val_accuracy") if progress.last]
    return Diverged(f"{what} is not finite at step {step}; last good: {', '.join(shown) or 'nothing evaluated before'}")


def report(job: Job, progress: Progress, meter: Meter) -> dict[str, Any]:
    """Evaluate, check, record; returns the event."""
    step, engine = progress.step, job.engine
    seconds = max(time.monotonic() - meter.started, 1e-9)
    engine.synchronise_statistics()
    counts = check_masks(engine, job.method, step)
    check_weights(engine, step)
    job.ledger.n_active = {c.name: c.n_active for c in counts}
    with averaged(job):
        validation = evaluate(engine, job.loader, "validation")
        if validation.accuracy > progress.best_validation and job.method.is_final(step):
            progress.best_validation, progress.best_step = validation.accuracy, step
            if job.config.evaluation.test:
                progress.test_at_best = evaluate(engine, job.loader, "test").accuracy
    n_active = sum(layer.n_active for layer in counts)
    event = {
        "step": step,
        "total_steps": job.clock.total_steps,
        "epoch": round(step / job.clock.steps_per_epoch, 4),
        "learning_rate": job.rate.at(job.method.schedule_step(step - 1)),
        "train_loss": float(engine.ranks.sum(meter.loss_sum)) / max(meter.n_images, 1),
        "val_accuracy": validation.accuracy,
        "val_loss": validation.loss,
        "n_active": n_active,
        "n_nonzero": sum(layer.n_nonzero for layer in counts),
        "density": n_active / job.method.n_weights,
        "inference_macs": job.ledger.inference_macs,
        "train_flops": job.ledger.train_flops,
        **job.method.gauges(step),
    }
    progress.last = event
    timing = {
        "images_per_second": round(meter.n_images / seconds, 1), "seconds": round(progress.train_seconds, 3),
        "loading_percent": round(100 * meter.waited_s / seconds, 2),
    }  # fmt: skip
    with job.parts("tracking"):
        line = job.record.append("evaluation", **event, **timing) if job.record else {**event, **timing}
    meter.reset()
    return line


def averaged(job: Job) -> Any:
    return job.average.applied() if job.average is not None else nullcontext()


def final_score(job: Job) -> Score:
    with averaged(job):
        return evaluate(job.engine, job.loader, "test")


def asked_to_stop(job: Job, stop: StopRequest, step: int) -> bool:
    """Ranks stop at the same step: they ask one another every tenth step."""
    if job.engine.ranks.world_size > 1 and step % 10:
        return False
    return any_rank(job, stop.asked)


def any_rank(job: Job, here: bool) -> bool:
    """Whether it is so on any rank; the same answer on all, as clocks and signals are not."""
    if job.engine.ranks.world_size == 1:
        return here
    return bool(job.engine.ranks.max(torch.tensor(int(here), device=job.engine.device)))


def save(job: Job, progress: Progress, meter: Meter) -> None:
    """Counts are checked first: a checkpoint never holds a network that breaks its budget."""
    progress.window_loss = float(job.engine.ranks.sum(meter.loss_sum))
    progress.window_images = meter.n_images
    job.engine.synchronise_statistics()
    check_masks(job.engine, job.method, progress.step)
    tensors = job.engine.state()
    if job.average is not None:
        tensors |= job.average.state()
    tensors |= {f"{SAVED}{name}": tensor for name, tensor in job.saved.items()}
    if job.record is not None:
        facts = {"progress": asdict(progress), "train_flops": job.ledger.train_flops, "record_bytes": job.record.size()}
        save_checkpoint(job.run_dir, tensors, facts, job.config.evaluation.keep_checkpoints)
    job.engine.ranks.barrier()
