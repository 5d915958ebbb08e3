"""MLflow behind the records: written in the background, in batches, found again by identity before anything is made.

Replaying is harmless: what a tracking run already holds is known from its own `progress_step`, whoever wrote it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from statistics import mean
from typing import Any
from urllib.parse import urlencode

import yaml

from harness.track.index import Index
from harness.track.record import CONFIG, RECORD, RESULT, read_events, read_result

RUN_TAG = "harness.run_id"
KIND_TAG = "harness.kind"
CURVE_TAG = "harness.curve"
STUDY_TAG = "harness.study"
ENDED_AS = {"done": "FINISHED", "pruned": "KILLED"}
ARTIFACTS = (CONFIG, RESULT, RECORD, "masks.safetensors")
NOT_METRICS = {"event", "time", "step", "total_steps"}
FINAL_METRICS = (
    "test_accuracy_last", "test_accuracy_best", "val_accuracy_best", "n_weights", "n_active", "n_nonzero",
    "train_seconds", "images_per_second", "loading_percent", "n_skipped_images", "inference_macs", "train_flops",
    "used_connections", "live_fraction", "n_empty_layers", "n_norm_parameters", "n_sigma", "n_other_parameters",
)  # fmt: skip
BATCH = 1000


def default_uri(out: Path) -> str:
    return f"sqlite:///{out / 'mlflow.db'}"


def make_database(uri: str) -> None:
    """A new SQLite file appears whole: MLflow makes its tables one after another, and half of them serve nobody after a
    kill. Elsewhere, and where there is one, nothing is done."""
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or path.exists():
        return
    from mlflow.tracking import MlflowClient

    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # MLflow remembers a path it has made
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        MlflowClient(f"sqlite:///{scratch}").search_experiments(max_results=1)
        with suppress(FileExistsError):  # of another process that was first
            os.link(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


class Mirror:
    """Brings the tracking server to what the records say. One thread at a time may use it."""

    def __init__(self, uri: str, experiment: str, out: Path, study: str | None = None) -> None:
        """study: the search whose trials the runs are; they become children of a run of that name."""
        self.uri, self.experiment, self.out, self.study = uri, experiment, out, study
        self.names: dict[str, str] = {}
        """What runs are called there, by run id, where it is not method, density and seed."""
        self.study_id = ""
        self._client: Any = None
        self.experiment_id = ""
        self._known: dict[str, tuple[str, int]] = {}
        self._finished: set[str] = set()

    def connect(self) -> None:
        """Raises whatever the client raises when the server does not answer."""
        if self._client is not None:
            return
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        import logging

        from mlflow.tracking import MlflowClient

        for noisy in ("alembic", "mlflow", "mlflow.store.db.utils"):  # mlflow sets its own levels when imported
            logging.getLogger(noisy).setLevel(logging.ERROR)

        make_database(self.uri)
        client = MlflowClient(self.uri)
        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            local = self.uri.startswith("sqlite:")
            place = (self.out / "mlflow-artifacts").as_uri() if local else None
            kind = {"mlflow.experimentKind": "custom_model_development"}  # the UI's view for training runs
            self.experiment_id = client.create_experiment(self.experiment, artifact_location=place, tags=kind)
        else:
            self.experiment_id = found.experiment_id
        self._client = client
        self.index = Index(client, self.experiment_id)
        if self.study is not None:
            self.study_id = self._study_run(self.study)

    def _study_run(self, study: str) -> str:
        held = self._search(f"tags.`{STUDY_TAG}` = '{study}' and tags.`{KIND_TAG}` = 'study'")
        if held:
            return str(held[0].info.run_id)
        tags = {STUDY_TAG: study, KIND_TAG: "study"}
        return str(self._client.create_run(self.experiment_id, int(time.time() * 1000), tags, study).info.run_id)

    def finish_study(self, summary: dict[str, Any], artifacts: Iterable[Path]) -> None:
        """The outcome of a search on its parent run; writing it again changes nothing but the time."""
        from mlflow.entities import Metric, RunTag

        self.connect()
        at = int(time.time() * 1000)
        numbers = {k: summary[k] for k in ("n_trials", "wall_seconds", "train_seconds", "train_flops", "gpu_hours")}
        numbers |= {f"trials_{state}": n for state, n in summary["states"].items()}
        best = next((c for c in summary["confirmed"] if c["number"] == summary["best"] and c["mean"] is not None), None)
        if best is not None:
            numbers |= {"best_searched": best["searched"], "best_fresh_seeds": best["mean"]}
        tags = {"best_trial": str(summary["best"]), "mlflow.note.content": summary["description"]}
        self._client.log_batch(
            self.study_id, metrics=[Metric(k, float(v), at, summary["n_trials"]) for k, v in numbers.items()],
            tags=[RunTag(k, v) for k, v in tags.items()],
        )  # fmt: skip
        for path in artifacts:
            self._client.log_artifact(self.study_id, str(path))
        self._client.set_terminated(self.study_id, "FINISHED", at)

    def sync(self, run_dir: Path) -> None:
        """Everything the record of a run holds and the tracking server does not."""
        if run_dir.name in self._finished:
            return
        events = list(read_events(run_dir))
        if not events:
            return
        self.connect()
        tracking_id, mark = self._find_or_create(run_dir, events[0])
        fresh = [e for e in events if e["event"] == "evaluation" and e["step"] > mark]
        self._log(tracking_id, fresh)
        if fresh:
            self._known[run_dir.name] = (tracking_id, fresh[-1]["step"])
        result = read_result(run_dir)
        if result is not None and events[-1]["event"] == "end":
            self._finish(tracking_id, run_dir, result, events[-1])
            self._finished.add(run_dir.name)

    def _find_or_create(self, run_dir: Path, start: dict[str, Any]) -> tuple[str, int]:
        if run_dir.name in self._known:
            return self._known[run_dir.name]
        identity = f"{self.study}/{run_dir.name}" if self.study else run_dir.name
        found = self._search(f"tags.`{RUN_TAG}` = '{identity}'")
        if found:
            mark = int(found[0].data.metrics.get("progress_step", 0))
            self._known[run_dir.name] = (found[0].info.run_id, mark)
            if found[0].info.status == "RUNNING":
                return self._known[run_dir.name]
            if found[0].data.tags.get("harness.status") in ENDED_AS:
                self._finished.add(run_dir.name)
            return self._known[run_dir.name]
        from mlflow.entities import Param

        tags = {RUN_TAG: identity, KIND_TAG: "run"}
        if self.study is not None:
            tags |= {KIND_TAG: "trial", STUDY_TAG: self.study, "mlflow.parentRunId": self.study_id}
        tags |= {k: str(start.get(k)) for k in ("method", "model", "data", "density", "seed", "device", "git_commit")}
        name = f"{start['method']} d={start['density']:g} seed {start['seed']}"
        name = self.names.get(run_dir.name, name)
        run = self._client.create_run(self.experiment_id, int(start["time"] * 1000), tags, name)
        config = yaml.safe_load((run_dir / "config.yaml").read_text())
        params = [Param(key, str(value)[:6000]) for key, value in _flatten(config)]
        params.append(Param("seed", str(start["seed"])))
        for i in range(0, len(params), 100):
            self._client.log_batch(run.info.run_id, params=params[i : i + 100])
        self._known[run_dir.name] = (run.info.run_id, 0)
        return self._known[run_dir.name]

    def _log(self, tracking_id: str, events: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        metrics: list[Any] = []
        for event in events:
            at, step = int(event["time"] * 1000), event["step"]
            numbers = {k: v for k, v in event.items() if k not in NOT_METRICS and isinstance(v, int | float)}
            numbers["progress_step"] = step  # in the same batch: the mark is never ahead of what it marks
            if len(metrics) + len(numbers) > BATCH:
                self._client.log_batch(tracking_id, metrics=metrics)
                metrics = []
            metrics += [Metric(key, float(value), at, step) for key, value in numbers.items()]
        if metrics:
            self._client.log_batch(tracking_id, metrics=metrics)

    def _finish(self, tracking_id: str, run_dir: Path, result: dict[str, Any], end: dict[str, Any]) -> None:
        from mlflow.entities import Metric, RunTag

        at, step = int(end["time"] * 1000), int(end["step"])
        metrics = [Metric(k, float(result[k]), at, step) for k in FINAL_METRICS if result.get(k) is not None]
        if "n_active" in result:
            metrics.append(Metric("sparsity_percent", 100 * (1 - result["n_active"] / result["n_weights"]), at, step))
        for name in ARTIFACTS:
            if (run_dir / name).exists():
                self._client.log_artifact(tracking_id, str(run_dir / name))
        self._client.log_batch(tracking_id, metrics=metrics, tags=[RunTag("harness.status", result["status"])])
        if self.study is None:
            self.index.add(result)
        self._client.set_terminated(tracking_id, ENDED_AS.get(result["status"], "FAILED"), at)

    def complete_index(self, results: Iterable[dict[str, Any]]) -> None:
        """Add what the index lacks, or has otherwise: results sent by a version that kept none."""
        self.connect()
        held = self.index.read() or {}
        self.index.add(*(r for r in results if outcome_of(held.get(r["run_id"], {})) != outcome_of(r)))

    def with_those_there(self, results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """These, and those of other folders of runs that the server has."""
        self.connect()
        return list({**(self.index.read() or {}), **{r["run_id"]: r for r in results}}.values())

    def sync_curves(self, results: Iterable[dict[str, Any]]) -> None:
        """One run per data set, model and method whose `accuracy` at step round(10,000 x sparsity) draws its curve.

        A dense network is a level to compare with, not a point 9,000 steps away from all others: its accuracy is drawn
        across the sparsities of the other methods.
        """
        groups: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        about: dict[str, dict[str, str]] = {}
        for r in results:
            if r["status"] == "done":
                name = f"{r['method']} · {r['model']} · {r['data']}"
                step = round(10_000 * (1 - r["n_active"] / r["n_weights"]))
                groups[name][step].append(r["test_accuracy_last"])
                about[name] = {k: r[k] for k in ("method", "model", "data")}
        if groups:
            self.connect()
        for name, points in groups.items():
            means = {step: mean(values) for step, values in sorted(points.items())}
            here = (about[name]["model"], about[name]["data"])
            same = [points for n, points in groups.items() if (about[n]["model"], about[n]["data"]) == here]
            sparse = [step for others in same for step in others if step > 0]
            if list(means) == [0] and sparse:
                means = {min(sparse): means[0], max(sparse): means[0]}
            digest = hashlib.sha256(json.dumps(means).encode()).hexdigest()[:16]
            held = self._search(f"tags.`{CURVE_TAG}` = '{name}'")
            if held and held[0].data.tags.get("harness.digest") == digest:
                continue
            for run in held:  # a metric's history cannot be rewritten: an older curve is replaced whole
                self._client.delete_run(run.info.run_id)
            self._write_curve(name, about[name], means, digest)

    def _write_curve(self, name: str, about: dict[str, str], means: dict[int, float], digest: str) -> None:
        from mlflow.entities import Metric

        at = int(time.time() * 1000)
        note = "Mean test accuracy of the last epoch; the step is sparsity x 10,000 (9990 is 99.9 % sparse)."
        tags = {KIND_TAG: "curve", CURVE_TAG: name, "harness.digest": digest, "mlflow.note.content": note, **about}
        run = self._client.create_run(self.experiment_id, at, tags, name)
        metrics = [Metric("accuracy", value, at, step) for step, value in means.items()]
        self._client.log_batch(run.info.run_id, metrics=metrics)
        self._client.set_terminated(run.info.run_id, "FINISHED", at)

    def _search(self, query: str) -> list[Any]:
        return list(self._client.search_runs([self.experiment_id], query, max_results=10))


def outcome_of(result: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(result.get(key) for key in ("schema", "status", "test_accuracy_last", "n_active"))


def curve_view(experiment_id: str) -> str:
    """The page of MLflow's UI that charts the curve runs, relative to the server."""
    query = urlencode({"searchFilter": f'tags.`{KIND_TAG}` = "curve"', "compareRunsMode": "CHART"})
    return f"/#/experiments/{experiment_id}/runs?{query}"


class BackgroundMirror:
    """Follows the records of some runs while they train. A server that is away costs a warning, nothing else."""

    PERIOD_S = 2.0
    SLOWEST_S = 120.0
    SHARE = 0.0005
    """Of a core that following may take, unless news would be older than that."""

    BACKOFF_S = 15.0

    def __init__(self, uri: str, experiment: str, out: Path, run_dirs: list[Path], study: str | None = None) -> None:
        """run_dirs: may grow while it is followed."""
        self.mirror = Mirror(uri, experiment, out, study)
        self.run_dirs = run_dirs
        self.failure: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        period, connected = self.PERIOD_S, False
        while not self._stop.wait(self.BACKOFF_S if self.failure else period):
            # importing MLflow takes seconds, which a run that is not on its way yet needs for itself
            if not any((run_dir / RECORD).exists() for run_dir in list(self.run_dirs)):
                continue
            began = time.thread_time()
            self._pass()
            if connected:
                period = min(max(self.PERIOD_S, (time.thread_time() - began) / self.SHARE), self.SLOWEST_S)
            connected = self.failure is None

    def _pass(self) -> bool:
        try:
            for run_dir in list(self.run_dirs):
                self.mirror.sync(run_dir)
        except Exception as error:  # whatever a client of a server that is away may raise
            if self.failure is None:
                reason = str(error).splitlines()[0][:160]
                print(
                    f"warning: tracking server {self.mirror.uri} does not answer ({reason}); the run goes on and its "
                    "record is kept: `harness sync` sends it later",
                    file=sys.stderr,
                )
            self.failure = f"{type(error).__name__}: {error}"
            return False
        self.failure = None
        return True

    def close_study(self, summary: dict[str, Any], artifacts: Iterable[Path]) -> bool:
        """After `close`: what the search whose trials these are came to."""
        try:
            self.mirror.finish_study(summary, artifacts)
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
        return self.failure is None

    def close(self, results: Iterable[dict[str, Any]] = (), complete: bool = False) -> bool:
        """Send the rest; returns whether the server holds everything.

        results: of all runs here, for the curves. complete: also see that the server's index has each of them.
        """
        results = list(results)
        self._stop.set()
        self._thread.join()
        if not self._pass():
            return False
        try:
            if complete:
                self.mirror.complete_index(results)
            if results:
                self.mirror.sync_curves(self.mirror.with_those_there(results))
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
        return self.failure is None


def _flatten(config: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for key, value in config.items():
        out += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return out
