"""Snapshots: documents of the hub, frozen on this machine, so that every later sweep reads the same bytes.

A snapshot is a folder `<cache>/corpora/NAME-<fingerprint>` with documents.parquet and manifest.json. The manifest is
written last, so a folder without one is half-written: it is ignored, and removed when the corpus is frozen next.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from niah import __version__
from niah.errors import CorpusError
from niah.trial import canonical

FORMAT = 1
"""Version of a manifest."""

Row: TypeAlias = tuple[str, str, str]
"""A document: id, title (may be empty), text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Documents frozen on this machine. `revision` is the commit that was read, `asked_revision` the pin or branch that led to it."""

    folder: Path
    name: str
    dataset: str
    config: str | None
    revision: str
    asked_revision: str
    split: str
    licence: str
    url: str
    fetched: str
    count: int
    characters: int
    fingerprint: str
    niah: str
    notes: tuple[str, ...] = ()
    """What a person should know: a source that failed, a data set that ended early."""

    def documents(self) -> list[Row]:
        """(id, title, text) of all documents; CorpusError if they are not the ones that were frozen."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(self.folder / "documents.parquet", columns=["id", "title", "text"])
            rows: list[Row] = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
        except (OSError, pa.ArrowException):
            raise self._damaged("cannot be read") from None
        if _fingerprint(rows) != self.fingerprint:
            raise self._damaged("is not what was frozen")
        return rows

    def _damaged(self, what: str) -> CorpusError:
        file = self.folder / "documents.parquet"
        return CorpusError(f"{file} {what}: delete its folder and run `niah haystack prepare {self.name}` again")


def cache_folder() -> Path:
    """Where snapshots are kept: $NIAH_CACHE, else `niah` in the user's cache directory of this platform."""
    if chosen := os.environ.get("NIAH_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "niah"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "niah"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "niah"


def find_snapshot(name: str, folder: Path | None = None) -> Snapshot | None:
    """The snapshot of a corpus that holds the most text, or None. `folder` replaces the cache folder."""
    found = [snapshot for path in _folders(name, folder) if (snapshot := _read(path))]
    return max(found, key=lambda snapshot: (snapshot.characters, snapshot.fetched, snapshot.fingerprint), default=None)


def freeze(rows: list[Row], provenance: Mapping[str, object], folder: Path | None = None) -> Snapshot:
    """Write the documents, then the manifest; each appears whole or not at all.

    `provenance` holds the fields of Snapshot from `name` to `url`, and `notes`; `folder` replaces the cache folder.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from filelock import FileLock

    fingerprint = _fingerprint(rows)
    name = str(provenance["name"])
    home = (folder or cache_folder()) / "corpora" / f"{name}-{fingerprint}"
    manifest = {
        "format": FORMAT,
        **provenance,
        "fetched": datetime.now(UTC).date().isoformat(),
        "documents": len(rows),
        "characters": sum(len(text) for _, _, text in rows),
        "fingerprint": fingerprint,
        "niah": __version__,
    }
    ids, titles, texts = (pa.array(column, pa.large_string()) for column in zip(*rows, strict=True))
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(home.parent / f".{name}.lock"):  # two at once: one would remove what the other has half written
            for half in (path for path in _folders(name, folder) if not (path / "manifest.json").exists()):
                shutil.rmtree(half)
            home.mkdir(exist_ok=True)
            pq.write_table(pa.table({"id": ids, "title": titles, "text": texts}), home / "documents.part", compression="zstd")
            (home / "documents.part").replace(home / "documents.parquet")
            (home / "manifest.part").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            (home / "manifest.part").replace(home / "manifest.json")
    except OSError as error:
        raise CorpusError(f"the snapshot cannot be written to {home}: {error.strerror or error}; NIAH_CACHE names another folder") from None
    return _snapshot(home, manifest)


def _fingerprint(rows: Iterable[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical(row).encode())
    return digest.hexdigest()[:16]


def _folders(name: str, folder: Path | None) -> list[Path]:
    """All folders of snapshots of a corpus, also half-written ones."""
    of_name = re.compile(re.escape(name) + r"-[0-9a-f]{16}")
    return [path for path in (folder or cache_folder()).glob("corpora/*") if of_name.fullmatch(path.name)]


def _read(home: Path) -> Snapshot | None:
    """The snapshot in a folder; None if it is half-written, or of a format that this version does not read."""
    try:
        return _snapshot(home, json.loads((home / "manifest.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _snapshot(home: Path, manifest: Mapping[str, Any]) -> Snapshot:
    values = dict(manifest)
    if values.pop("format") != FORMAT:
        raise ValueError("another format")
    return Snapshot(folder=home, count=values.pop("documents"), notes=tuple(values.pop("notes")), **values)
