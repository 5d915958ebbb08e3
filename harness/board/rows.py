"""Rows of the leaderboard: runs that differ by nothing but their seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import mean, median, stdev
from typing import Any

from harness.board.statistics import bootstrap, interval


@dataclass(frozen=True, slots=True)
class Row:
    data: str
    model: str
    method: str
    density: float
    fingerprint: str
    accuracies: tuple[float, ...]
    """Test accuracy of the last epoch, 0 to 1, in the order of seeds."""

    seeds: tuple[int, ...]
    n_weights: int
    n_active: tuple[int, ...]
    n_nonzero: tuple[int, ...]
    failures: tuple[str, ...] = ()
    emergent: bool = False
    """The density was not asked for: `density` is the mean of what came out."""

    remarks: tuple[str, ...] = ()
    """What a reader of the numbers must know."""

    train_flops: tuple[float, ...] = ()
    inference_macs: tuple[float, ...] = ()
    train_seconds: tuple[float, ...] = ()
    devices: tuple[str, ...] = ()
    n_classes: int | None = None
    """Unknown in records of early versions."""

    tuning: dict[str, Any] | None = None
    """The search behind the configuration: its study, trials and cost. None where nothing was searched."""

    @property
    def density_std(self) -> float | None:
        """Spread of a density that came out; None where it was asked for, or with fewer than two seeds."""
        if not self.emergent or len(self.n_active) < 2:
            return None
        return stdev(n / self.n_weights for n in self.n_active)

    @property
    def n_collapsed(self) -> int | None:
        """Seeds that learned no more than twice chance; None where the number of classes is not known."""
        if self.n_classes is None:
            return None
        return sum(a < 2 / self.n_classes for a in self.accuracies)

    @property
    def mean(self) -> float | None:
        return mean(self.accuracies) if self.accuracies else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation; None with fewer than two seeds."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None


def rows_from_results(results: Iterable[dict[str, Any]]) -> list[Row]:
    """Sorted by data set, model, falling density and falling accuracy; a failed run is kept as a failure of its row."""
    groups: dict[tuple[str, str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for r in results:
        if r["status"] == "pruned" or (r["status"] == "done" and r["test_accuracy_last"] is None):
            continue  # a search's: it saw no test image, and ranks nowhere
        groups[(r["data"], r["model"], r["method"], r["fingerprint"])].append(r)
    rows = []
    for (data, model, method, fingerprint), runs in groups.items():
        runs.sort(key=lambda r: r["seed"])
        done = [r for r in runs if r["status"] == "done"]
        rows.append(
            Row(
                data=data,
                model=model,
                method=method,
                density=mean(r["density"] for r in done or runs),  # emergent in some methods: it differs by seed
                fingerprint=fingerprint,
                accuracies=tuple(r["test_accuracy_last"] for r in done),
                seeds=tuple(r["seed"] for r in done),
                n_weights=done[0]["n_weights"] if done else 0,
                n_active=tuple(r["n_active"] for r in done),
                n_nonzero=tuple(r["n_nonzero"] for r in done),
                emergent=any(r.get("emergent") for r in done),
                remarks=remarks_on(done),
                train_flops=tuple(r["train_flops"] for r in done if "train_flops" in r),
                inference_macs=tuple(r["inference_macs"] for r in done if "inference_macs" in r),
                train_seconds=tuple(r["train_seconds"] for r in done if "train_seconds" in r),
                devices=tuple(sorted({r["device"] for r in done if "device" in r})),
                n_classes=next((r["n_classes"] for r in done if "n_classes" in r), None),
                tuning=next((r["tuning"] for r in done if r.get("tuning")), None),
                failures=tuple(f"seed {r['seed']} {r['status']}: {r.get('reason', '')}" for r in runs if r not in done),
            )
        )
    rows.sort(key=lambda row: (row.data, row.model, -row.density, -(row.mean or 0)))
    return rows


def remarks_on(runs: list[dict[str, Any]]) -> tuple[str, ...]:
    said = list(dict.fromkeys(remark for r in runs for remark in r.get("remarks", [])))
    reset = [str(r["seed"]) for r in runs if r.get("reset_in_last_two_epochs")]
    for tuning in {r["tuning"]["study"]: r["tuning"] for r in runs if r.get("tuning")}.values():
        hours = tuning["train_seconds"] / 3600
        said.append(f"tuned: {tuning['trials']} trials of the study {tuning['study']}, {hours:.2f} hours of training")
    if reset:
        said.append(
            f"a dying layer was reset within the last two epochs of seeds {', '.join(reset)}: density is passing"
        )
    return tuple(said)


def as_report(
    results: list[dict[str, Any]], command: str | None, events_of: Callable[[str], Iterable[dict[str, Any]]]
) -> dict[str, Any]:
    """Rows with what is needed to judge and repeat them: the command, devices, versions and commits.

    events_of: a run's record by its id, for the course of densities that came out.
    """
    course = {
        r["run_id"]: [[e["step"], e["density"]] for e in events_of(r["run_id"]) if e["event"] == "evaluation"]
        for r in results if r.get("emergent")
    }  # fmt: skip
    return {
        "command": command,
        "devices": sorted({r["device"] for r in results if "device" in r}),
        "versions": [dict(v) for v in sorted({tuple(r["versions"].items()) for r in results if "versions" in r})],
        "git_commits": sorted({str(r["git_commit"]) for r in results if "git_commit" in r}),
        "rows": [as_plain(row) for row in rows_from_results(results)],
        **({"density_over_time": course} if course else {}),
    }


def as_plain(row: Row) -> dict[str, Any]:
    return {
        "data": row.data, "model": row.model, "method": row.method, "density": row.density, "n": len(row.seeds),
        "mean": row.mean, "std": row.std, "interval": interval(row.accuracies), "bootstrap": bootstrap(row.accuracies),
        "median": median(row.accuracies) if row.accuracies else None, "n_collapsed": row.n_collapsed,
        "train_flops": list(row.train_flops), "inference_macs": list(row.inference_macs),
        "train_seconds": list(row.train_seconds), "devices": list(row.devices),
        "accuracies": list(row.accuracies), "seeds": list(row.seeds),
        "n_weights": row.n_weights, "n_active": list(row.n_active), "n_nonzero": list(row.n_nonzero),
        "emergent": row.emergent, "density_std": row.density_std, "remarks": list(row.remarks), "tuning": row.tuning,
        "fingerprint": row.fingerprint, "failures": list(row.failures),
    }  # fmt: skip
