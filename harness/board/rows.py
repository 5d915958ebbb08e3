"""Rows of the leaderboard: runs that differ by nothing but their seed."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import mean, median, stdev
from typing import Any, NamedTuple

from harness.board.statistics import bootstrap, interval
from harness.errors import HarnessError

OUTCOME = ("status", "test_accuracy_last", "n_active", "n_weights", "seed")
"""What makes two results of one run different ones."""


class Convention(NamedTuple):
    """What rows must share to stand in one table."""

    data: str
    model: str
    setting: str
    """Digest of the configuration without the method; '' in records that do not tell."""

    n_weights: int
    """Maskable weights: the denominator of density. 0 where no run got as far."""

    n_exempt: int
    """Weights of layers that the method's setting leaves dense and does not count."""

    n_train: int | None
    n_test: int | None
    """Images trained and tested on; None in records that do not tell."""

    @property
    def id(self) -> str:
        """Eight hexadecimal digits, for names of files and links."""
        return hashlib.sha256(repr(tuple(self)).encode()).hexdigest()[:8]

    @property
    def training(self) -> tuple[object, ...]:
        """All but which weights are maskable: what a dense network shares with the sparse ones it is compared to."""
        return (self.data, self.model, self.setting, self.n_train, self.n_test)


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
    """In words."""

    failed_seeds: tuple[int, ...] = ()
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

    setting: str = ""
    setting_label: str = "setting not recorded"
    n_exempt: int = 0
    n_train: int | None = None
    n_test: int | None = None
    run_ids: tuple[str, ...] = ()
    """In the order of seeds."""

    git_commits: tuple[str, ...] = ()
    versions: tuple[tuple[tuple[str, str], ...], ...] = ()
    """Sets of package versions that the runs saw."""

    n_verified: int | None = None
    """Runs whose files were counted and evaluated again, and agreed; None where that cannot be told from here."""

    tuning: dict[str, Any] | None = None
    """The search behind the configuration: its study, trials and cost. None where nothing was searched."""

    @property
    def convention(self) -> Convention:
        return Convention(self.data, self.model, self.setting, self.n_weights, self.n_exempt, self.n_train, self.n_test)

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


def rows_from_results(
    results: Iterable[dict[str, Any]], verifications: Mapping[str, list[str]] | None = None
) -> list[Row]:
    """Sorted by convention, falling density and falling accuracy; a failed run is kept as a failure of its row.

    verifications: what re-evaluations found wrong, by run id, where that is known. HarnessError for two different
    results of one run.
    """
    groups: dict[tuple[str, str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for r in once(results):
        if r["status"] == "pruned" or (r["status"] == "done" and r["test_accuracy_last"] is None):
            continue  # a search's: it saw no test image, and ranks nowhere
        groups[(r["data"], r["model"], r["method"], r["fingerprint"])].append(r)
    rows = [row_of(runs, verifications) for runs in groups.values()]
    rows.sort(
        key=lambda row: (row.data, row.model, row.setting_label, row.convention[2:4], -row.density, -(row.mean or 0))
    )
    return rows


def once(results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each run one time, however often it was imported; HarnessError names one with two different outcomes."""
    held: dict[str, dict[str, Any]] = {}
    for r in results:
        other = held.setdefault(r["run_id"], r)
        if other is not r and [other.get(k) for k in OUTCOME] != [r.get(k) for k in OUTCOME]:
            raise HarnessError(
                f"two different results of run {r['run_id']} ({r['method']}, seed {r['seed']}): test accuracy "
                f"{other.get('test_accuracy_last')} and {r.get('test_accuracy_last')}; remove one of them"
            )
    return list(held.values())


def is_number(accuracy: float | None) -> bool:
    return accuracy is not None and math.isfinite(accuracy)


def row_of(runs: list[dict[str, Any]], verifications: Mapping[str, list[str]] | None) -> Row:
    runs = sorted(runs, key=lambda r: r["seed"])
    done = [r for r in runs if r["status"] == "done" and is_number(r["test_accuracy_last"])]
    one = (done or runs)[0]
    failures = [
        f"seed {r['seed']} {r['status']}: {r.get('reason', '')}" if r["status"] != "done"
        else f"seed {r['seed']}: its test accuracy is {r['test_accuracy_last']}, no number"
        for r in runs if r not in done
    ]  # fmt: skip
    held = verifications or {}
    disputes = [f"seed {r['seed']} is NOT verified: {fault}" for r in done for fault in held.get(r["run_id"], [])]
    return Row(
        data=one["data"],
        model=one["model"],
        method=one["method"],
        density=mean(r["density"] for r in done or runs),  # emergent in some methods: it differs by seed
        fingerprint=one["fingerprint"],
        accuracies=tuple(r["test_accuracy_last"] for r in done),
        seeds=tuple(r["seed"] for r in done),
        n_weights=one.get("n_weights", 0),
        n_active=tuple(r["n_active"] for r in done),
        n_nonzero=tuple(r["n_nonzero"] for r in done),
        emergent=any(r.get("emergent") for r in done),
        remarks=(*remarks_on(done), *disputes),
        train_flops=tuple(r["train_flops"] for r in done if "train_flops" in r),
        inference_macs=tuple(r["inference_macs"] for r in done if "inference_macs" in r),
        train_seconds=tuple(r["train_seconds"] for r in done if "train_seconds" in r),
        devices=tuple(sorted({r["device"] for r in done if "device" in r})),
        n_classes=next((r["n_classes"] for r in done if "n_classes" in r), None),
        setting=one.get("setting", ""),
        setting_label=one.get("setting_label", "setting not recorded"),
        n_exempt=one.get("n_exempt_weights", 0),
        n_train=one.get("n_train"),
        n_test=one.get("n_test"),
        run_ids=tuple(r["run_id"] for r in done),
        git_commits=tuple(sorted({str(r["git_commit"]) for r in done if r.get("git_commit")})),
        versions=tuple(sorted({tuple(r["versions"].items()) for r in done if "versions" in r})),
        n_verified=sum(held.get(r["run_id"]) == [] for r in done) if verifications is not None else None,
        tuning=next((r["tuning"] for r in done if r.get("tuning")), None),
        failures=tuple(failures),
        failed_seeds=tuple(r["seed"] for r in runs if r not in done),
    )


def tables_of(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows that may be compared, together. A row whose runs never got to count weights joins its setting's."""
    tables: dict[Convention, list[Row]] = {}
    for row in sorted(rows, key=lambda r: not r.accuracies):
        home = row.convention
        if not row.accuracies:
            home = next((c for c in tables if c[:3] == home[:3]), home)
        tables.setdefault(home, []).append(row)
    return [sorted(of, key=lambda r: (-r.density, -(r.mean or 0))) for _, of in sorted(tables.items(), key=order)]


def order(entry: tuple[Convention, list[Row]]) -> tuple[Any, ...]:
    convention, of = entry
    return (convention.data, convention.model, of[0].setting_label, *convention[2:5])


def remarks_on(runs: list[dict[str, Any]]) -> tuple[str, ...]:
    said = list(dict.fromkeys(remark for r in runs for remark in r.get("remarks", [])))
    reset = [str(r["seed"]) for r in runs if r.get("reset_in_last_two_epochs")]
    for tuning in {r["tuning"]["study"]: r["tuning"] for r in runs if r.get("tuning")}.values():
        hours = tuning["train_seconds"] / 3600
        said.append(f"tuned: {tuning['trials']} trials of the study {tuning['study']}, {hours:.2f} hours of training")
    cut = [str(r["seed"]) for r in runs if r.get("live_fraction") == 0]
    if cut:
        began = " from before the first step" if all(r.get("live_fraction_at_start") == 0 for r in runs) else ""
        said.append(f"disconnected{began}: no weight lies on a path from image to logit, seeds {', '.join(cut)}")
    empty = [str(r["seed"]) for r in runs if r.get("n_empty_layers") and r.get("live_fraction") != 0]
    if empty:
        said.append(f"layers without a weight in seeds {', '.join(empty)}")
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
        "accuracies": list(row.accuracies), "seeds": list(row.seeds), "run_ids": list(row.run_ids),
        "n_weights": row.n_weights, "n_active": list(row.n_active), "n_nonzero": list(row.n_nonzero),
        "emergent": row.emergent, "density_std": row.density_std, "remarks": list(row.remarks), "tuning": row.tuning,
        "setting": row.setting, "setting_label": row.setting_label, "n_exempt": row.n_exempt, "n_train": row.n_train,
        "n_test": row.n_test, "fingerprint": row.fingerprint, "git_commits": list(row.git_commits),
        "versions": [dict(v) for v in row.versions], "n_verified": row.n_verified, "failures": list(row.failures),
    }  # fmt: skip
