"""Who a run is: a fingerprint of everything that decides its numbers, and a seed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from harness.config.schema import RunConfig

# Where and how a run is executed does not change what it is.
NOT_IDENTITY: dict[str, set[str] | None] = {
    "engine": {"name", "zero_stage", "accumulation", "workers", "device", "threads", "compile"},
    "data": {"root", "loader", "threads", "prefetch", "stage"},
    "method": {"label"},
    "evaluation": {"checkpoint_seconds", "keep_checkpoints", "batch_size"},
    "tracking": None,
    "tuning": None,
}


def identity_of(config: RunConfig) -> dict[str, Any]:
    """The part of a config that decides its numbers, as plain data.

    What stands at its default is left out, so that an option added later does not make old runs other runs. A default
    must therefore never change its meaning: tests/config/fingerprints.json pins the identity of every shipped recipe.
    """
    plain = config.model_dump(mode="json", exclude_defaults=True)
    plain["method"] = {
        "name": config.method.name,
        **plain.get("method", {}),
    }  # for each method, its name is the default
    for section, keys in NOT_IDENTITY.items():
        held = plain.pop(section, {})
        kept = {k: v for k, v in held.items() if keys is not None and k not in keys}
        if kept:
            plain[section] = kept
    return plain


def fingerprint(config: RunConfig) -> str:
    """Ten hexadecimal digits of a SHA-256 over the identity."""
    return _digest(identity_of(config))


def setting_of(config: RunConfig) -> str:
    """Who the setting of a run is: all of its identity but the method. Runs of one setting may be compared."""
    return _digest({section: held for section, held in identity_of(config).items() if section != "method"})


def _digest(plain: dict[str, Any]) -> str:
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def setting_label(config: RunConfig) -> str:
    """A setting in words, for the head of a table: not all of it, but what tells most settings apart."""
    optimizer, schedule, data = config.optimizer, config.schedule, config.data
    length = f"{schedule.epochs:g} epochs" if schedule.epochs is not None else f"{schedule.steps} steps"
    parts = [
        f"{length} of {optimizer.name}", f"lr {optimizer.lr:g} ({schedule.law})", f"batch {data.batch_size}",
        f"weight decay {optimizer.weight_decay:g}",
    ]  # fmt: skip
    parts += [f"clipped at {optimizer.clip_norm:g} ({optimizer.clip_rule})"] if optimizer.clip_norm else []
    parts += [f"label smoothing {optimizer.label_smoothing:g}"] if optimizer.label_smoothing else []
    parts += ["average of weights"] if optimizer.ema_decay else []
    parts += [config.engine.precision] if config.engine.precision != "fp32" else []
    return ", ".join(parts)


def run_id(config: RunConfig, seed: int) -> str:
    return f"{fingerprint(config)}-{seed}"
