"""Results read back from a tracking server alone."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.errors import HarnessError
from harness.track.mirror import KIND_TAG
from harness.track.record import RESULT


def results_from_tracking(uri: str, experiment: str = "sparsity-harness") -> list[dict[str, Any]]:
    """The result artifact of every finished run of an experiment."""
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(experiment)
    except Exception as error:
        raise HarnessError(f"tracking server {uri} does not answer: {str(error).splitlines()[0]}") from None
    if found is None:
        return []
    results, token = [], None
    with TemporaryDirectory() as scratch:
        while True:
            page = client.search_runs(
                [found.experiment_id], f"tags.`{KIND_TAG}` = 'run' and attributes.status != 'RUNNING'",
                max_results=1000, page_token=token,
            )  # fmt: skip
            for run in page:
                results.append(
                    json.loads(Path(client.download_artifacts(run.info.run_id, RESULT, scratch)).read_text())
                )
            token = page.token
            if not token:
                return results
