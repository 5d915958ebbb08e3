"""What a tracking server alone tells of the runs of an experiment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.errors import HarnessError
from harness.track.index import Index
from harness.track.mirror import KIND_TAG, RUN_TAG
from harness.track.record import CONFIG, RECORD, RESULT, upgraded


class TrackedRuns:
    """Finished runs of an experiment, read from the server."""

    def __init__(self, uri: str, experiment: str = "sparsity-harness") -> None:
        """HarnessError where the server does not answer."""
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        from mlflow.tracking import MlflowClient

        try:
            self.client = MlflowClient(uri)
            found = self.client.get_experiment_by_name(experiment)
        except Exception as error:
            raise HarnessError(f"tracking server {uri} does not answer: {str(error).splitlines()[0]}") from None
        self.experiment_id = found.experiment_id if found is not None else None

    def results(self) -> list[dict[str, Any]]:
        if self.experiment_id is None:
            return []
        held = Index(self.client, self.experiment_id).read()
        if held is None:  # runs of a version that kept no index
            return [upgraded(result) for result in self._results_one_by_one()]
        for run_id in self._deleted() & held.keys():
            if not list(self._search(f"tags.`{RUN_TAG}` = '{run_id}'")):
                del held[run_id]
        return [upgraded(result) for result in held.values()]

    def unfinished(self) -> list[str]:
        """Runs that began there and have not ended: they go on, or were stopped."""
        if self.experiment_id is None:
            return []
        found = self._search(f"tags.`{KIND_TAG}` = 'run' and attributes.status = 'RUNNING'")
        return [run.data.tags[RUN_TAG] for run in found]

    def fetch(self, run_id: str, place: Path) -> bool:
        """Bring the configuration, result and record of a run; whether the server has it."""
        for run in self._search(f"tags.`{RUN_TAG}` = '{run_id}'"):
            place.mkdir(parents=True, exist_ok=True)
            names = {entry.path for entry in self.client.list_artifacts(run.info.run_id)}
            for name in names & {CONFIG, RESULT, RECORD}:
                self.client.download_artifacts(run.info.run_id, name, str(place))
            return True
        return False

    def _results_one_by_one(self) -> Iterator[dict[str, Any]]:
        with TemporaryDirectory() as scratch:
            for run in self._search(f"tags.`{KIND_TAG}` = 'run' and attributes.status != 'RUNNING'"):
                path = self.client.download_artifacts(run.info.run_id, RESULT, scratch)
                yield json.loads(Path(path).read_text())

    def _deleted(self) -> set[str]:
        from mlflow.entities import ViewType

        found = self._search(f"tags.`{KIND_TAG}` = 'run'", ViewType.DELETED_ONLY)
        return {run.data.tags[RUN_TAG] for run in found}

    def _search(self, query: str, view: int = 1) -> Iterator[Any]:
        """view: MLflow's ViewType, 1 is active runs only."""
        token = None
        while True:
            page = self.client.search_runs(
                [str(self.experiment_id)], query, run_view_type=view, max_results=1000, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return
