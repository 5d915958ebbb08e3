"""Results as runs leave them, made up."""

from __future__ import annotations

from typing import Any


def result(method: str, density: float, seed: int, accuracy: float | None, **more: Any) -> dict[str, Any]:
    """accuracy: None for a run that failed."""
    base: dict[str, Any] = {
        "data": "digits", "model": "net", "method": method, "density": density, "seed": seed, "schema": 2,
        "fingerprint": f"{method}{density}", "setting": "one", "setting_label": "12 epochs of sgd", **more,
    }  # fmt: skip
    base["run_id"] = more.get("run_id", f"{base['fingerprint']}-{base['data']}-{seed}")
    if accuracy is None:
        return {"status": "failed", "reason": "out of memory", **base}
    n_active = round(base["density"] * 10_000)
    return {"status": "done", "test_accuracy_last": accuracy, "n_weights": 10_000, "n_active": n_active,
            "n_nonzero": n_active - seed, "n_classes": 10, **base}  # fmt: skip


def results(method: str, density: float, accuracies: dict[int, float], **more: Any) -> list[dict[str, Any]]:
    """accuracies: by seed."""
    return [result(method, density, seed, value, **more) for seed, value in accuracies.items()]
