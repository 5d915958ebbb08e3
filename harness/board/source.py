"""Where the board's results come from: a folder of runs, or a tracking server."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from harness.track.record import VERIFIED, all_results, read_events, results_by_fingerprint, unfinished, verification


class Source(Protocol):
    place: str
    curves: Path
    """Where pictures of these rows go, without their suffix."""

    def results(self) -> list[dict[str, Any]]: ...

    def verifications(self) -> dict[str, list[str]] | None:
        """What re-evaluations of runs found wrong, nothing where they agreed; None where that cannot be told here."""

    def by_fingerprint(self) -> dict[str, list[dict[str, Any]]]:
        """Results by the fingerprint of their configuration, today's where it can be told."""

    def unfinished(self) -> list[str]: ...

    def events(self, run_id: str) -> Iterator[dict[str, Any]]: ...

    def files(self, run_id: str) -> Path | None:
        """A folder with the configuration, result and record of a run; None where they are not to be had."""


class Records:
    def __init__(self, root: Path) -> None:
        self.root, self.place, self.curves = root, str(root), root / "board" / "all"

    def results(self) -> list[dict[str, Any]]:
        return all_results(self.root)

    def verifications(self) -> dict[str, list[str]] | None:
        folders = [path.parent for path in self.root.glob(f"*/{VERIFIED}")]
        return {folder.name: faults for folder in folders if (faults := verification(folder)) is not None}

    def by_fingerprint(self) -> dict[str, list[dict[str, Any]]]:
        return results_by_fingerprint([self.root])

    def unfinished(self) -> list[str]:
        return unfinished(self.root)

    def events(self, run_id: str) -> Iterator[dict[str, Any]]:
        return read_events(self.root / run_id)

    def files(self, run_id: str) -> Path | None:
        return self.root / run_id


class Server:
    def __init__(self, uri: str, root: Path) -> None:
        from harness.track.query import TrackedRuns

        self.runs, self.place, self.curves = TrackedRuns(uri), uri, root / "board" / "tracked"
        self.most_fetched = 2_000
        """Runs whose files are brought from the server, a few calls each; of more, pages tell what the index does."""

        self._scratch = TemporaryDirectory()
        self._results: list[dict[str, Any]] | None = None

    def results(self) -> list[dict[str, Any]]:
        if self._results is None:
            self._results = self.runs.results()
        return self._results

    def verifications(self) -> dict[str, list[str]] | None:
        return None

    def by_fingerprint(self) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for result in self.results():
            found[result["fingerprint"]].append(result)
        return found

    def unfinished(self) -> list[str]:
        return self.runs.unfinished()

    def events(self, run_id: str) -> Iterator[dict[str, Any]]:
        held = self.files(run_id)
        return read_events(held) if held is not None else iter(())

    def files(self, run_id: str) -> Path | None:
        place = Path(self._scratch.name)
        if (place / run_id).exists():
            return place / run_id
        if self.most_fetched <= 0:
            return None
        self.most_fetched -= 1
        return place / run_id if self.runs.fetch(run_id, place / run_id) else None
