"""Frozen snapshots of a corpus: whole or not there, and what was frozen is what is read."""

import subprocess
import sys

import pytest

from niah.errors import CorpusError
from niah.task import hub, snapshot
from tests.task.hub_sources import Place, place

__all__ = ["place"]


PROVENANCE = {
    "name": "wikipedia",
    "dataset": "d/e",
    "config": None,
    "revision": "a" * 40,
    "asked_revision": "main",
    "split": "train",
    "licence": "CC0",
    "url": "https://x.example",
    "notes": [],
}


ROWS = [("1", "", "One."), ("2", "Zwei", "Zwei – ✓."), ("3", "", "Three.")]


def test_a_half_written_snapshot_is_ignored_and_removed(place: Place) -> None:
    killed = """
import os, types
from niah.task import snapshot
snapshot.json = types.SimpleNamespace(dumps=lambda *a, **k: os._exit(9))  # the text of the manifest is made after the parquet file
snapshot.freeze({!r}, {!r})
"""
    command = [sys.executable, "-c", killed.format(ROWS, PROVENANCE)]
    assert subprocess.run(command, env=place.environment("http://127.0.0.1:9"), cwd=place.root, check=False).returncode == 9
    (half,) = (place.cache / "corpora").glob("wikipedia-*")
    assert (half / "documents.parquet").exists()
    assert hub.find_snapshot("wikipedia", place.cache) is None
    whole = snapshot.freeze(ROWS[:2], PROVENANCE, place.cache)
    assert not half.exists()
    assert hub.find_snapshot("wikipedia", place.cache) == whole
    again = snapshot.freeze(ROWS, PROVENANCE, place.cache)
    assert again.folder == half
    assert hub.find_snapshot("wikipedia", place.cache) == again
    assert again.documents() == ROWS


def test_snapshots_of_another_corpus_with_a_longer_name_are_left_alone(place: Place) -> None:
    other = place.cache / "corpora" / f"wikipedia-de-{'0' * 16}"
    other.mkdir(parents=True)
    snapshot.freeze(ROWS, PROVENANCE, place.cache)
    assert other.exists()


def test_the_fingerprint_is_of_all_text_in_order(place: Place) -> None:
    assert snapshot.freeze(ROWS, PROVENANCE, place.cache).fingerprint == "a65d8a8da84cae35"
    for other in (ROWS[::-1], [("1", "", "One."), ("2", "Zwei – ✓.", ""), ("3", "", "Three.")], ROWS[:2]):
        assert snapshot.freeze(other, PROVENANCE, place.cache).fingerprint != "a65d8a8da84cae35"


def test_changed_and_unreadable_documents_are_refused(place: Place) -> None:
    one = snapshot.freeze(ROWS, PROVENANCE, place.cache)
    other = snapshot.freeze(ROWS[:2], PROVENANCE, place.cache)
    file = one.folder / "documents.parquet"
    file.write_bytes((other.folder / "documents.parquet").read_bytes())
    with pytest.raises(CorpusError, match=r"not what was frozen.*niah haystack prepare wikipedia"):
        one.documents()
    file.write_bytes(b"garbage")
    with pytest.raises(CorpusError, match=r"cannot be read.*niah haystack prepare wikipedia"):
        one.documents()
    file.unlink()
    with pytest.raises(CorpusError, match="cannot be read"):
        one.documents()


def test_a_cache_that_cannot_be_written(place: Place) -> None:
    blocked = place.root / "file"
    blocked.write_text("")
    with pytest.raises(CorpusError, match="NIAH_CACHE"):
        snapshot.freeze(ROWS, PROVENANCE, blocked)
