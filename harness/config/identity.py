"""Who a run is: a fingerprint of everything that decides its numbers, and a seed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from harness.config.schema import RunConfig

# Where and how a run is executed does not change what it is.
NOT_IDENTITY: dict[str, set[str] | None] = {
    "engine": {"name", "zero_stage", "accumulation", "workers", "device", "threads"},
    "data": {"root", "loader", "threads"},
    "method": {"label"},
    "evaluation": {"checkpoint_seconds", "batch_size"},
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
    canonical = json.dumps(identity_of(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def run_id(config: RunConfig, seed: int) -> str:
    return f"{fingerprint(config)}-{seed}"
