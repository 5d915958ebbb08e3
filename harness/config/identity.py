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
    """The part of a config that decides its numbers, as plain data."""
    plain = config.model_dump(mode="json")
    for section, keys in NOT_IDENTITY.items():
        if keys is None:
            del plain[section]
        else:
            plain[section] = {k: v for k, v in plain[section].items() if k not in keys}
    return plain


def fingerprint(config: RunConfig) -> str:
    """Ten hexadecimal digits of a SHA-256 over the identity."""
    canonical = json.dumps(identity_of(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def run_id(config: RunConfig, seed: int) -> str:
    return f"{fingerprint(config)}-{seed}"
