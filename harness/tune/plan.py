"""What a suite will take, before it is launched: FLOPs from each cell's own schedule, hours, memory, disk, money."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from harness.config import Cell, fingerprint, registry
from harness.config.schema import RunConfig, Section
from harness.data.sizes import sizes_of
from harness.errors import HarnessError
from harness.models.shape import InputShape
from harness.sparse.ledger import Geometry, measure
from harness.sparse.masks import exempt_layers, maskable_shapes
from harness.sparse.method import Method
from harness.track.record import read_result
from harness.train.cost import Cost
from harness.train.job import clock_of
from harness.tune.progress import fraction_done

SAMPLES = 400
"""Steps at which a schedule is looked at."""

FULL = 0.92
"""Share of a device's memory that a run may fill: allocators leave holes."""

MEASURED = 0.9, 1.2
"""Least and most of what first steps say a run takes."""

CONTEXT_BYTES = 600_000_000
"""Of a process on a GPU before it does anything."""

DEVICES = Path(__file__).with_name("devices.yaml")


class Device(Section):
    tflops: dict[str, float]
    memory_gb: float = Field(gt=0)
    utilisation: tuple[float, float]
    price_per_hour: float | None = Field(None, ge=0)


@dataclass(frozen=True, slots=True)
class Need:
    """Of one run from its first step to its result."""

    steps: int
    images: int
    """Trained on, each as often as it is seen."""

    dense_flops: float
    """Which a device computes: masks are multiplied with, zeros are not skipped. Evaluations included."""

    sparse_flops: float
    """Of training, as its record will count them; where density comes out of training, as if it were dense."""

    fixed_bytes: int
    """On the device whatever the batch: weights, gradients, optimizer state, masks, effective weights, images held."""

    image_bytes: int
    """On the device for each image of a batch."""

    disk_bytes: int
    """At its largest: two checkpoints, and what a finished run leaves."""


def need_of(config: RunConfig, seed: int = 0) -> Need:
    sizes = sizes_of(config.data)
    clock = clock_of(config, sizes.n["train"])
    model, method = _network(config, seed, sizes.inputs, clock)
    shapes = {name: math.prod(shape) for name, shape in method.shapes.items()}
    every = max(1, clock.total_steps // SAMPLES)
    geometry = measure(model, sizes.inputs.channels, sizes.inputs.size)
    first = geometry
    held = memory_of(model, sizes.inputs)  # before an activation is simplified: its largest
    sparse = dense = 0.0
    for step in range(1, clock.total_steps + 1, every):
        n_steps = min(every, clock.total_steps + 1 - step)
        if method.adapt(model, step - 1):
            geometry = measure(model, sizes.inputs.channels, sizes.inputs.size)
        n_dense = sum(method.needs_gradient(s) for s in range(step, step + n_steps))
        sparse += _step_flops(method, geometry, shapes, step, n_steps, n_dense, config)
        dense += n_steps * 6 * geometry.macs(shapes)
    batch = config.data.batch_size * sizes.n["train"] / (clock.steps_per_epoch * config.data.batch_size)
    per_evaluation = max(1, round(config.evaluation.every_epochs * clock.steps_per_epoch))
    n_looked_at = math.ceil(clock.total_steps / per_evaluation) * sizes.n["validation"] + sizes.n["test"]
    n_weights, n_parameters = sum(shapes.values()), sum(p.numel() for p in model.parameters())
    slots = 2 if config.optimizer.name == "adam" else 1 if config.optimizer.momentum else 0
    return Need(
        steps=clock.total_steps,
        images=round(clock.total_steps * batch),
        dense_flops=batch * dense + n_looked_at * 2 * first.macs(shapes),
        sparse_flops=batch * sparse,
        fixed_bytes=4 * n_parameters * (2 + slots) + n_weights * (1 + 4 + 4) + sizes.resident_bytes + CONTEXT_BYTES,
        image_bytes=held // (2 if config.engine.precision == "bf16" else 1),
        disk_bytes=4 * n_parameters * (1 + config.evaluation.keep_checkpoints * (1 + slots)) + 5 * n_weights,
    )


def _network(config: RunConfig, seed: int, inputs: InputShape, clock: Any) -> tuple[nn.Module, Method]:
    """The network that trains, without masks, and its method, on the CPU."""
    model: nn.Module = registry.load("model", config.model.name, registry.MODELS)(config.model, inputs)
    exempt_layers(model, config.method.keep_dense)
    n_weights = sum(shape.numel() for shape in maskable_shapes(model).values())
    method: Method = registry.load("method", config.method.name, registry.METHODS)(config.method, clock, seed)
    model = method.transform(model)
    method.bind(n_weights, maskable_shapes(model))
    return model, method


def _step_flops(
    method: Method, geometry: Geometry, shapes: Mapping[str, int], step: int, n_steps: int, n_dense: int,
    config: RunConfig,
) -> float:  # fmt: skip
    """Per image, of `n_steps` steps from `step` on, by the ledger's own count; `n_dense` need every gradient."""
    budgets, total = method.budgets_at(step - 1), method.total_at(step - 1)
    if budgets is None:  # no budget for a layer: as all together, or dense
        share = total / sum(shapes.values()) if total is not None else 1.0
        budgets = {name: round(share * n) for name, n in shapes.items()}
    forward = geometry.macs(shapes if method.forward_is_dense else budgets)
    if config.optimizer.clip_norm > 0 and config.optimizer.clip_rule == "dense":
        n_dense = n_steps
    trained = geometry.macs(method.trained_at(step) or budgets)
    return 2.0 * (n_steps * 2 * forward + (n_steps - n_dense) * trained + n_dense * geometry.macs(shapes))


def memory_of(model: nn.Module, inputs: InputShape) -> int:
    """Bytes that a forward pass keeps for the backward one, per image in fp32; nothing is computed."""
    shadow = copy.deepcopy(model).to("meta").train()
    few, more = (_kept_bytes(shadow, inputs, n) for n in (2, 4))
    return (more - few) // 2


def _kept_bytes(model: nn.Module, inputs: InputShape, n: int) -> int:
    own = {p.untyped_storage()._cdata for p in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        held.append(tensor)  # so that its place is not given to another
        return tensor

    held: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.zeros(n, inputs.channels, inputs.size, inputs.size, device="meta"))
    return sum(kept.values())


@dataclass(frozen=True, slots=True)
class Planned:
    """One cell, and how much of it is there already."""

    cell: Cell
    need: Need
    done: float
    """0 to 1."""

    seconds: tuple[float, float]
    """Of a device, least and most, for all of it."""

    training: tuple[float, float]
    """Of those, without what comes before the first step."""

    took: float | None = None
    """Seconds of a device that its training did take, where it is done."""

    where: str = ""
    """The device that it is done on."""


def plan_cells(cells: list[Cell], out: Path, device: Device, measured: Sequence[Cost] | None = None) -> list[Planned]:
    """measured: what each run costs on its workers, which then counts instead of the device's rate."""
    needs: dict[str, Need] = {}
    planned = []
    for i, cell in enumerate(cells):
        who = fingerprint(cell.config)
        if who not in needs:
            needs[who] = need_of(cell.config, cell.seed)
        result = read_result(out / cell.run_id) or {}
        finished = result.get("status") == "done"
        done = 1.0 if finished else min(fraction_done(out / cell.run_id), 0.99)
        n = cell.config.engine.workers
        if measured is None:
            seconds = training = _seconds(cell.config, needs[who], device)
        else:
            whole, start = measured[i].of(cell.config), measured[i].start_s
            least, most = (n * factor for factor in MEASURED)
            seconds, training = (least * whole, most * whole), (least * (whole - start), most * (whole - start))
        took = result["workers"] * result["train_seconds"] if finished else None
        planned.append(Planned(cell, needs[who], done, seconds, training, took, str(result.get("device", ""))))
    return planned


def _seconds(config: RunConfig, need: Need, device: Device) -> tuple[float, float]:
    if config.engine.precision not in device.tflops:
        raise HarnessError(
            f"the device's table has no rate for {config.engine.precision}, only for {', '.join(device.tflops)}: "
            "add it, or change engine.precision"
        )
    low, high = device.utilisation
    rate = 1e12 * device.tflops[config.engine.precision]
    return need.dense_flops / (high * rate), need.dense_flops / (low * rate)


def largest_batch(need: Need, device: Device) -> int:
    """Images per device; 0 where not even the weights fit."""
    return max(0, int((FULL * 1e9 * device.memory_gb - need.fixed_bytes) // max(1, need.image_bytes)))


def device_of(name: str, path: Path | None) -> Device:
    """Raises HarnessError naming the devices there are, or what is wrong with the table."""
    place = path or DEVICES
    try:
        table = yaml.safe_load(place.read_text())
        devices = TypeAdapter(dict[str, Device]).validate_python(table)
    except OSError as error:
        raise HarnessError(f"--devices {place}: {error.strerror}") from None
    except (yaml.YAMLError, ValidationError) as error:
        raise HarnessError(f"--devices {place}: {str(error).splitlines()[0]}; see {DEVICES}") from None
    if name not in devices:
        raise HarnessError(f"no device '{name}' in {place}: it has {', '.join(devices)}")
    return devices[name]
