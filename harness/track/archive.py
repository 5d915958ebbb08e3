"""All records of a folder of runs as one file, and back: what another installation needs to build the same board."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp
from typing import Any

from harness.errors import HarnessError
from harness.track.record import CONFIG, RECORD, RESULT, SCHEMA, VERIFIED, make_writable, sha256, upgraded

MANIFEST = "manifest.json"
PROVENANCE = "imported.json"
FORMAT = 1
RUN_FILES = (CONFIG, RECORD, RESULT, VERIFIED, PROVENANCE)
TENSORS = ("masks.safetensors", "weights.safetensors")
STUDY_FILES = ("search.yaml", "journal.log", "summary.json", "best.yaml")


@dataclass(frozen=True, slots=True)
class Imported:
    new: tuple[str, ...]
    """Folders that came, relative to the folder of runs."""

    held: tuple[str, ...]
    """Those that were there already, the same."""


def folders_of(root: Path, tensors: bool) -> dict[str, list[Path]]:
    """Finished runs and searches, with the files of each that are sent."""
    names = RUN_FILES + (TENSORS if tensors else ())
    found = {}
    for result in sorted(root.glob(f"*/{RESULT}")):
        found[result.parent.name] = [p for name in names if (p := result.parent / name).exists()]
    for journal in sorted(root.glob("studies/*/journal.log")):
        study = journal.parent
        files = [p for name in STUDY_FILES if (p := study / name).exists()]
        files += [p for run in sorted(study.glob("runs/*")) for name in names if (p := run / name).exists()]
        found[str(study.relative_to(root))] = files
    return found


def export_records(root: Path, path: Path, tensors: bool) -> tuple[int, int]:
    """Write the archive, whole or not at all; how many runs and searches it holds. HarnessError for none."""
    folders = folders_of(root, tensors)
    if not folders:
        raise HarnessError(f"no finished run in {root}: nothing to export")
    digests = {str(p.relative_to(root)): sha256(p) for files in folders.values() for p in files}
    manifest = {
        "format": FORMAT, "schema": SCHEMA, "harness": version("sparsity-harness"),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "files": digests,
    }  # fmt: skip
    scratch = path.with_name(f".{path.name}.part")
    try:
        with tarfile.open(scratch, "w:xz" if path.suffix == ".xz" else "w:gz") as archive:
            add(archive, MANIFEST, json.dumps(manifest, indent=1).encode())
            for name in digests:
                add(archive, name, (root / name).read_bytes())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    n_studies = sum(name.startswith("studies/") for name in folders)
    return len(folders) - n_studies, n_studies


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def import_records(path: Path, root: Path) -> Imported:
    """Bring the runs of an archive into `root`. Each keeps, in imported.json, where it comes from.

    Nothing is brought if one file is not what the manifest says, or one run is here with another result: HarnessError.
    """
    make_writable(root)
    scratch = Path(mkdtemp(prefix=".import-", dir=root))
    try:
        manifest = unpack(path, scratch)
        origin = {k: manifest[k] for k in ("harness", "created", "schema")}
        origin |= {"archive": path.name, "archive_sha256": sha256(path)}
        new: list[str] = []
        held: list[str] = []
        for folder in folders_of(scratch, tensors=True):
            (new if not (root / folder).exists() else held).append(folder)
        different = [f for f in held if not same(scratch / f, root / f)]
        if different:
            raise HarnessError(
                f"{path}: {len(different)} runs are in {root} with other results, nothing was imported: "
                f"{', '.join(different[:5])}; give another --out DIR"
            )
        for folder in new:
            came = {**origin, "imported": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
            before = scratch / folder / PROVENANCE
            came |= {"before": json.loads(before.read_text())} if before.exists() else {}
            before.write_text(json.dumps(came, indent=1) + "\n")
            (root / folder).parent.mkdir(parents=True, exist_ok=True)
            (scratch / folder).replace(root / folder)
        return Imported(tuple(new), tuple(held))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def unpack(path: Path, scratch: Path) -> dict[str, Any]:
    """Its files, each checked against the manifest; HarnessError names what is wrong."""
    try:
        with tarfile.open(path) as archive:
            member = archive.extractfile(MANIFEST)
            manifest: dict[str, Any] = json.loads(member.read()) if member is not None else {}
            if manifest.get("format") != FORMAT or manifest.get("schema", 0) > SCHEMA:
                raise HarnessError(
                    f"{path}: format {manifest.get('format')}, schema {manifest.get('schema')}; this harness reads "
                    f"format {FORMAT}, schemas up to {SCHEMA}: update it"
                )
            for entry in archive:
                if entry.name == MANIFEST:
                    continue
                place = PurePosixPath(entry.name)
                content = archive.extractfile(entry)
                if content is None or place.is_absolute() or ".." in place.parts or entry.name not in manifest["files"]:
                    raise HarnessError(f"{path}: {entry.name} is not in its manifest; nothing was imported")
                held = content.read()
                if hashlib.sha256(held).hexdigest() != manifest["files"][entry.name]:
                    raise HarnessError(f"{path}: {entry.name} was changed after it was packed; nothing was imported")
                target = scratch / place
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(held)
    except (OSError, EOFError, tarfile.TarError, KeyError, ValueError) as error:
        raise HarnessError(f"{path} is no whole archive of `harness export`: {error}") from None
    missing = [name for name in manifest["files"] if not (scratch / name).exists()]
    if missing:
        raise HarnessError(f"{path}: {missing[0]} and {len(missing) - 1} more are missing; nothing was imported")
    for result in scratch.glob(f"**/{RESULT}"):
        upgraded(json.loads(result.read_text()))
    return manifest


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold one run with one result, or one search with one journal."""
    name = RESULT if (one / RESULT).exists() else "journal.log"
    return (other / name).exists() and sha256(one / name) == sha256(other / name)
