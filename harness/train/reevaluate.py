"""A finished run, counted and evaluated again from its files alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from harness.config import build_config
from harness.errors import HarnessError
from harness.track.record import CONFIG, RESULT, read_result, sha256
from harness.train.checks import count_layers, current_masks
from harness.train.evaluate import evaluate
from harness.train.job import build_job
from harness.train.run import MASKS, WEIGHTS


@dataclass(frozen=True, slots=True)
class Again:
    run_id: str
    faults: tuple[str, ...]
    """What does not agree with the result; none is a verified run."""

    n_active: int
    n_nonzero: int
    test_accuracy: float
    recorded_accuracy: float
    result_sha256: str
    """Of the result.json this was found of."""


def reevaluate(run_dir: Path, tolerance: float) -> Again:
    """Rebuild the network from config, masks and weights, count it, and evaluate the test set.

    tolerance: in accuracy, 0 to 1: another kind of processor rounds differently. Raises HarnessError where there is no
    finished run, or where its files cannot be read.
    """
    result = read_result(run_dir)
    signature = sha256(run_dir / RESULT) if result is not None else ""
    if result is None or result["status"] != "done" or result.get("test_accuracy_last") is None:
        raise HarnessError(f"{run_dir} holds no finished run that was tested")
    faults = [
        f"{name} is not the file that was written"
        for name, held in result.get("sha256", {}).items()
        if not (run_dir / name).exists() or sha256(run_dir / name) != held
    ]
    if "sha256" not in result:
        faults.append("the record is of a version that signed nothing")
    try:
        config = build_config(yaml.safe_load((run_dir / CONFIG).read_text()), run_dir.name)
        masks, weights = load_file(run_dir / MASKS), load_file(run_dir / WEIGHTS)
    except (OSError, SafetensorError, yaml.YAMLError) as error:
        raise HarnessError(f"{run_dir}: its files cannot be read ({error})") from None
    alone = config.engine.model_copy(update={"name": "torch", "zero_stage": 0, "workers": 1, "accumulation": 1})
    job = build_job(config.model_copy(update={"engine": alone}), result["seed"], run_dir, result["steps"])
    try:
        job.engine.model.load_state_dict(weights)
    except RuntimeError as error:
        raise HarnessError(f"{run_dir}: its weights are of another network ({str(error).splitlines()[0]})") from None
    found = current_masks(job.engine)
    differing = [name for name, mask in masks.items() if not torch.equal(found[name].cpu().bool(), mask.bool())]
    faults += [f"layer {name}: its mask is not the one its weights are under" for name in differing[:3]]
    counts = count_layers(job.engine.model)
    n_active, n_nonzero = sum(c.n_active for c in counts), sum(c.n_nonzero for c in counts)
    accuracy = evaluate(job.engine, job.loader, "test").accuracy
    for what, here, recorded in (
        ("active weights", n_active, result["n_active"]), ("non-zero weights", n_nonzero, result["n_nonzero"]),
    ):  # fmt: skip
        if here != recorded:
            faults.append(f"{here:,} {what}, recorded are {recorded:,}")
    if abs(accuracy - result["test_accuracy_last"]) > tolerance:
        faults.append(f"test accuracy {100 * accuracy:.3f} %, recorded are {100 * result['test_accuracy_last']:.3f} %")
    return Again(run_dir.name, tuple(faults), n_active, n_nonzero, accuracy, result["test_accuracy_last"], signature)
