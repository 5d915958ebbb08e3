"""One run on one rank: its parts, built in a fixed order from a config and a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.config import registry
from harness.config.schema import RunConfig
from harness.data.batches import Loader, Share
from harness.data.open import open_data
from harness.errors import HarnessError
from harness.models.norm import across_ranks
from harness.models.shape import InputShape
from harness.sparse.ledger import Ledger, measure
from harness.sparse.masks import exempt_layers, install_views, maskable_shapes
from harness.sparse.method import Method
from harness.sparse.noise import key_of
from harness.sparse.schedules import Clock, Rate
from harness.track.record import Record
from harness.train.average import WeightAverage
from harness.train.checks import check_same_run
from harness.train.engine import Engine, TorchEngine
from harness.train.machine import hosts_of, keep_memory
from harness.train.optimizer import build_rate
from harness.train.profile import Parts
from harness.train.ranks import Ranks, join
from harness.train.scoring import choose_masks


@dataclass(slots=True)
class Job:
    config: RunConfig
    seed: int
    run_dir: Path
    loader: Loader
    clock: Clock
    method: Method
    rate: Rate
    engine: Engine
    ledger: Ledger
    average: WeightAverage | None
    record: Record | None
    """Rank 0 writes the record."""

    parts: Parts = field(default_factory=Parts)
    """Told where in a step the run is."""

    hosts: list[str] = field(default_factory=list)
    """Names of the machines that the ranks are on."""

    saved: dict[str, Tensor] = field(default_factory=dict)
    """The engine's state at an earlier step, for methods that return to it."""


def choose_device(wanted: str, rank: int) -> torch.device:
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise HarnessError("a GPU was asked for (device cuda) and torch sees none: use --device auto or cpu")
    return torch.device("cuda", rank % torch.cuda.device_count())


def build_network(config: RunConfig, seed: int, clock: Clock, inputs: InputShape) -> tuple[nn.Module, Method]:
    """The network before its first step, masks installed, and its method; the same on every rank and engine."""
    with torch.random.fork_rng():
        torch.manual_seed(key_of(seed, "init"))
        model: nn.Module = registry.load("model", config.model.name, registry.MODELS)(config.model, inputs)
        if config.model.norm == "sync":
            across_ranks(model)
        if config.model.init == "kaiming_normal":
            kaiming_normal(model)
        exempt_layers(model, config.method.keep_dense)
        n_weights = sum(shape.numel() for shape in maskable_shapes(model).values())
        method: Method = registry.load("method", config.method.name, registry.METHODS)(config.method, clock, seed)
        model = method.transform(model)
    method.bind(n_weights, maskable_shapes(model))
    install_views(model, method.views())
    return model, method


@torch.no_grad()
def kaiming_normal(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")


def clock_of(config: RunConfig, n_train: int) -> Clock:
    per_epoch = math.ceil(n_train / config.data.batch_size)
    steps = config.schedule.steps or round((config.schedule.epochs or 0) * per_epoch)
    if steps < 1:
        raise HarnessError(f"schedule.epochs {config.schedule.epochs} is less than one step of {per_epoch} per epoch")
    method = registry.load("method", config.method.name, registry.METHODS)
    total = method.length(config.method, steps)
    return Clock(total_steps=total, steps_per_epoch=per_epoch, schedule_steps=steps)


def build_job(config: RunConfig, seed: int, run_dir: Path, start_step: int = 0) -> Job:
    """`start_step`: the step a checkpoint was taken at. The architecture is the one that took that step, as in the
    checkpoint; where a change is due after it, the loop makes it."""
    if config.engine.threads:
        torch.set_num_threads(config.engine.threads)
    device = choose_device(config.engine.device, 0)
    ranks = join(device, needs_group=config.engine.name == "deepspeed")
    device = choose_device(config.engine.device, ranks.rank)
    check_same_run(ranks, device, config, seed, start_step)
    if device.type == "cpu":
        keep_memory()
    share = Share(ranks.rank, ranks.world_size, config.engine.accumulation)
    loader = open_data(config.data, seed, share, device, config.evaluation.batch_size)
    clock = clock_of(config, loader.sizes["train"])
    model, method = build_network(config, seed, clock, loader.inputs)
    if method.scores_at_start and start_step == 0:
        choose_masks(model, method, config, seed, ranks, device)
    method.adapt(model, max(start_step - 1, 0))
    geometry = measure(model, loader.inputs.channels, loader.inputs.size)
    sizes = {name: math.prod(shape) for name, shape in method.shapes.items()}
    engine = build_engine(model, config, ranks, device)
    method.tensors = engine
    average = WeightAverage(model, config.optimizer.ema_decay) if config.optimizer.ema_decay else None
    return Job(
        config=config, seed=seed, run_dir=run_dir, loader=loader, clock=clock, method=method,
        rate=build_rate(config.schedule, config.optimizer.lr, clock.schedule_steps), engine=engine, average=average,
        ledger=Ledger(geometry, sizes, device, method.forward_is_dense),
        record=Record(run_dir) if ranks.rank == 0 else None,
        hosts=hosts_of(ranks, device),
        saved=engine.state() if start_step == 0 and method.saves_at(0) else {},
    )  # fmt: skip


def build_engine(model: nn.Module, config: RunConfig, ranks: Ranks, device: torch.device) -> Engine:
    if config.engine.name == "torch":
        return TorchEngine(model, config, ranks, device)
    from harness.train.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(model, config, ranks, device)
