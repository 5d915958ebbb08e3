"""From a config and a seed to a result on disk. Doing it twice equals doing it once."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from harness.config import RunConfig, run_id
from harness.errors import Diverged, HarnessError
from harness.sparse.connectivity import connectivity
from harness.track.record import (
    CONFIG,
    UNFINISHED,
    facts_of,
    make_writable,
    read_events,
    read_result,
    sha256,
    write_result,
    write_whole,
)
from harness.train.checkpoint import drop_checkpoints, load_checkpoint, save_tensors
from harness.train.checks import check_masks, count_layers, count_uncounted, current_masks
from harness.train.compiled import kind_of
from harness.train.engine import OPTIMIZER
from harness.train.job import Job, build_job, build_network
from harness.train.loop import SAVED, Progress, StopRequest, final_score, train
from harness.train.machine import device_name, git_commit, network_settings, versions
from harness.train.profile import Parts

LOCK = ".lock"
MASKS, WEIGHTS = "masks.safetensors", "weights.safetensors"


def execute(
    config: RunConfig,
    seed: int,
    out: Path,
    stop: StopRequest | None = None,
    patience_s: float = 0.0,
    parts: Parts | None = None,
) -> Iterator[dict[str, Any]]:
    """Run or continue one run; yields its evaluations, and its result last.

    A finished run yields its result at once. A failed one is run again. Files: out/<run id>/. patience_s: how long to
    wait for another process that is training it, e.g. one that is just being ended. parts: told where in a step it is.
    """
    identity = run_id(config, seed)
    run_dir = out / identity
    done = read_result(run_dir)
    if done is not None and done["status"] == "done":
        with suppress(OSError):  # killed between its result and this; or another's, in a folder that is only read
            drop_checkpoints(run_dir)
        yield done
        return
    make_writable(run_dir)
    stop = stop or StopRequest()
    stop.watch(run_dir)
    with sole_owner(run_dir, patience_s):
        found = load_checkpoint(run_dir)
        progress = Progress(**found.facts["progress"]) if found else Progress()
        job = build_job(config, seed, run_dir, progress.step)
        job.parts = parts or job.parts
        if job.record is not None:
            start_files(job, found.facts["record_bytes"] if found else 0, progress.step)
            if found and found.damaged:
                job.record.append("fallback", step=progress.step, damaged=found.damaged)
        if found:
            job.engine.load(found.tensors)
            job.saved = {k.removeprefix(SAVED): v for k, v in found.tensors.items() if k.startswith(SAVED)}
            job.ledger.total += found.facts["train_flops"]
            if job.average is not None:
                job.average.load(found.tensors)
        job.ledger.n_active = {c.name: c.n_active for c in check_masks(job.engine, job.method, progress.step)}
        try:
            yield from train(job, progress, stop)
        except Diverged as error:
            if job.record is not None:
                job.record.append("end", step=progress.step, status="diverged", reason=str(error))
                write_result(run_dir, {**describe(job), "status": "diverged", "reason": str(error)})
            raise
        result = finish(job, progress)
        job.engine.close()
    yield result


@contextmanager
def sole_owner(run_dir: Path, patience_s: float = 0.0) -> Iterator[None]:
    """One process group at a time trains a run; the lock goes with the process, however it ends."""
    if int(os.environ.get("RANK", "0")) > 0:
        yield
        return
    with (run_dir / LOCK).open("w") as lock:
        until = time.monotonic() + patience_s
        while not locked(lock.fileno()):
            if time.monotonic() > until:
                raise HarnessError(f"another process is training {run_dir.name}: wait for it, or stop it")
            time.sleep(0.2)
        try:
            yield
        finally:
            leave_nothing(run_dir)


def locked(number: int) -> bool:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def leave_nothing(run_dir: Path) -> None:
    """A run refused before its record began has no folder."""
    if [entry.name for entry in run_dir.iterdir()] == [LOCK]:
        (run_dir / LOCK).unlink()
        run_dir.rmdir()
        with suppress(OSError):  # the folder of all runs, if this would have been the first
            run_dir.parent.rmdir()


def start_files(job: Job, record_bytes: int, step: int) -> None:
    assert job.record is not None
    for left in job.run_dir.glob(f".*{UNFINISHED}"):  # by a process that was killed
        left.unlink()
    job.record.rewind(record_bytes)
    write_whole(job.run_dir / CONFIG, yaml.safe_dump(job.config.model_dump(mode="json"), sort_keys=False))
    if step == 0:
        job.record.append("start", **describe(job), total_steps=job.clock.total_steps, **paths_of(job, 0))


def describe(job: Job) -> dict[str, Any]:
    """What a run is and where it runs."""
    config, engine = job.config, job.engine
    return {
        **facts_of(config, job.seed),
        "emergent": job.method.emergent,
        "n_weights": job.method.n_weights,
        "n_exempt_weights": count_uncounted(engine.model)["n_exempt_weights"],
        "n_train": job.loader.sizes["train"],
        "n_test": job.loader.sizes["test"],
        "n_classes": job.loader.inputs.n_classes,
        "n_skipped_images": job.loader.n_skipped,
        "steps_per_epoch": job.clock.steps_per_epoch,
        "device": device_name(engine.device),
        "device_type": engine.device.type,
        "hosts": job.hosts,
        **({"network": network_settings()} if engine.ranks.world_size > 1 else {}),
        **({"tuning": config.tuning.model_dump()} if config.tuning else {}),
        "engine": config.engine.name + (f"-zero{config.engine.zero_stage}" if config.engine.zero_stage else ""),
        "workers": engine.ranks.world_size,
        "precision": config.engine.precision,
        "compile": kind_of(config, engine.device),
        "remarks": job.method.remarks(config),
        "versions": versions(),
        "git_commit": git_commit(),
    }


def paths_of(job: Job, step: int) -> dict[str, Any]:
    """Whether the network after `step` steps is connected; of a network made for it, so the trained one stays as it is.
    Nothing where a fixed dense part connects everything."""
    if job.method.forward_is_dense:
        return {}
    model, method = build_network(job.config, job.seed, job.clock, job.loader.inputs)
    method.adapt(model, max(step - 1, 0))
    inputs = job.loader.inputs
    masks = {name: mask.cpu() for name, mask in current_masks(job.engine).items()}
    found = connectivity(model, masks, (inputs.channels, inputs.size, inputs.size))
    return {
        "live_fraction": found.live_fraction, "n_empty_layers": len(found.empty_layers), "n_units": found.n_units,
        "n_units_without_input": found.n_without_input, "n_units_without_output": found.n_without_output,
    }  # fmt: skip


def finish(job: Job, progress: Progress) -> dict[str, Any]:
    """Final evaluation, artifacts, result; the checkpoint goes last."""
    test_accuracy = final_score(job).accuracy if job.config.evaluation.test else None
    counts = count_layers(job.engine.model)
    state = job.engine.state()
    last, config = progress.last, job.config
    n_active = sum(layer.n_active for layer in counts)
    uncounted = count_uncounted(job.engine.model)
    exempt = uncounted["n_exempt_weights"]
    result = {
        **describe(job),
        **({"density": n_active / job.method.n_weights} if job.method.emergent else {}),
        "density_with_exempt": (n_active + exempt) / (job.method.n_weights + exempt),
        "status": "done",
        "steps": progress.step,
        "epochs": round(job.clock.epochs, 4),
        "n_active": n_active,
        "n_nonzero": sum(layer.n_nonzero for layer in counts),
        "inference_macs": job.ledger.inference_macs,
        "train_flops": job.ledger.train_flops,
        "used_connections": job.ledger.geometry.used_connections(job.ledger.n_active),
        **uncounted,
        "test_accuracy_last": test_accuracy,
        "test_accuracy_best": progress.test_at_best if progress.best_step and config.evaluation.test else None,
        "best_step": progress.best_step or None,
        "val_accuracy_last": last["val_accuracy"],
        "val_accuracy_best": progress.best_validation if progress.best_step else None,
        "train_loss_last": last["train_loss"],
        "train_seconds": round(progress.train_seconds, 3),
        "loading_percent": round(100 * progress.loading_seconds / max(progress.train_seconds, 1e-9), 2),
        "images_per_second": round(progress.step * job.config.data.batch_size / max(progress.train_seconds, 1e-9), 1),
        **job.method.outcome(),
        "layers": [{**asdict(layer), "shape": list(layer.shape)} for layer in counts],
    }
    if job.record is not None:
        masks = {name: mask.cpu() for name, mask in current_masks(job.engine).items()}
        weights = {k: v for k, v in state.items() if not k.startswith(OPTIMIZER)}
        if job.average is not None:
            weights |= job.average.average  # what was evaluated
        save_tensors(job.run_dir / MASKS, masks, {"run_id": result["run_id"]})
        save_tensors(job.run_dir / WEIGHTS, weights, {"run_id": result["run_id"]})
        result |= paths_of(job, progress.step)
        result["live_fraction_at_start"] = next(read_events(job.run_dir), {}).get("live_fraction")
        result["sha256"] = {name: sha256(job.run_dir / name) for name in (CONFIG, MASKS, WEIGHTS)}
        job.record.append("end", step=progress.step, status="done", test_accuracy_last=test_accuracy)
        write_result(job.run_dir, result)
        drop_checkpoints(job.run_dir)
    job.engine.ranks.barrier()
    return result
