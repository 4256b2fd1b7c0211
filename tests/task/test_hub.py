"""The hub part of the corpora, against a loopback hub and the real `datasets`."""

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from niah.errors import UsageError
from niah.task import hub
from tests.hub_server import Hub, card, dead_url, json_lines, parquet
from tests.task.hub_sources import (
    CAP,
    FALLBACK,
    NAMES,
    PRIMARY,
    REAL,
    ROOT,
    TOKEN,
    Place,
    fallbacks,
    loopback,
    place,
    primaries,
    texts,
    wikipedia,
)

__all__ = ["loopback", "place"]


def test_every_corpus_through_its_primary_source(loopback: Hub, place: Place) -> None:
    primaries(loopback)
    shadow = place.root / "wikimedia" / "wikipedia"  # in the working directory
    shadow.mkdir(parents=True)
    (shadow / "train.parquet").write_bytes(parquet([{"id": "0", "title": "", "text": "Not from the hub."}]))
    answers = place.fetch(loopback.url, *((name, 18000) for name in NAMES), ("wikipedia", 18000), ("wikipedia", 20000))
    found = [hub.find_snapshot(name, place.cache) for name in NAMES]
    for name, answer, one in zip(NAMES, answers[:4], found, strict=False):
        assert one is not None
        assert (answer["dataset"], answer["notes"], one.notes) == (PRIMARY[name], [], ())
        assert answer["steps"][0] == 0
        assert answer["steps"] == sorted(answer["steps"])
        rows = one.documents()
        assert len({id_ for id_, _, _ in rows}) == len(rows) == one.count
        assert all(text == text.strip() and text for _, _, text in rows)
        longest = max(len(text) for _, _, text in rows)
        assert 18000 <= one.characters == sum(len(text) for _, _, text in rows) < (18000 if name != "wikipedia" else 20000) + longest
        assert answer["steps"][-1] == one.characters or name == "wikipedia"
        manifest = json.loads((one.folder / "manifest.json").read_text())
        expected = {"format", "name", "dataset", "config", "revision", "asked_revision", "split", "licence", "url", "fetched"}
        assert set(manifest) == expected | {"documents", "characters", "fingerprint", "niah", "notes"}
        assert one.folder.name == f"{name}-{one.fingerprint}"
    assert found[0] is not None
    assert found[0].documents()[0][:2] == ("0", "Title 0")
    assert found[1] is not None
    assert (found[1].revision, found[1].documents()[0][0]) == (CAP, "f2d_1/html/0001-01.html")
    assert found[2] is not None
    assert (found[2].asked_revision, len(found[2].revision), found[2].documents()[0][0]) == ("main", 40, "7000")
    # The same request gives the same snapshot; more text a second one, which is then the one that sweeps read.
    assert answers[0]["fingerprint"] == answers[4]["fingerprint"] != answers[5]["fingerprint"] == found[0].fingerprint
    assert len(list((place.cache / "corpora").glob("wikipedia-*"))) == 2
    # The token goes to the hub, as everywhere with Hugging Face, and stays out of all that is written.
    assert loopback.tokens == {f"Bearer {TOKEN}"}
    assert not [path for path in place.root.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    # With a warm cache and a hub that is down, nothing old is taken for new.
    down = place.fetch(dead_url(), ("wikipedia", 8000), ("legal", 8000))
    assert all("error" in answer and answer["seconds"] < 20 for answer in down)


def test_a_failing_source_is_replaced_by_the_fallback_and_its_text_is_not_mixed_in(loopback: Hub, place: Place) -> None:
    primaries(loopback)
    fallbacks(loopback)
    shards = loopback.repos[PRIMARY["wikipedia"]].files
    shards["20231101.en/train-00001-of-00002.parquet"] = random.Random(1).randbytes(5000)
    loopback.fault(PRIMARY["legal"], "drop", ending="cap_00001.jsonl.gz")
    loopback.fault(PRIMARY["financial"], "missing")
    loopback.fault(PRIMARY["medical"], "gated", ending=".gz")
    answers = place.fetch(loopback.url, *((name, 15000) for name in NAMES))
    reasons = ("a file is unreadable", "connection to the hub fails", "no such data set", "needs a login")
    for name, answer, reason in zip(NAMES, answers, reasons, strict=True):
        assert answer["dataset"] == FALLBACK[name]
        assert len(answer["notes"]) == 1
        assert answer["notes"][0].startswith(f"{PRIMARY[name]}: ")
        assert reason in answer["notes"][0]
        assert answer["notes"][0].endswith(f"; {FALLBACK[name]} was taken instead")
        assert answer["seconds"] < 20
        one = hub.find_snapshot(name, place.cache)
        assert one is not None
        assert all("other" in text for _, _, text in one.documents())
    # The readers had begun: text of the bad sources was there and was thrown away.
    assert answers[0]["steps"].count(0) == answers[1]["steps"].count(0) == 2
    medical = hub.find_snapshot("medical", place.cache)
    assert medical is not None
    assert [id_ for id_, _, _ in medical.documents()[:2]] == ["0", "1"]
    financial = hub.find_snapshot("financial", place.cache)
    assert financial is not None
    assert "Item 9A.\n\n" in financial.documents()[0][2]


def test_a_connection_dropped_in_a_parquet_shard(loopback: Hub, place: Place) -> None:
    primaries(loopback)
    fallbacks(loopback)
    loopback.fault(PRIMARY["wikipedia"], "drop", ending="train-00000-of-00002.parquet", times=1)
    loopback.fault(PRIMARY["financial"], "drop", ending="1994.parquet")
    once, for_ever = place.fetch(loopback.url, ("wikipedia", 8000), ("financial", 15000))
    assert (once["dataset"], once["notes"]) == (PRIMARY["wikipedia"], [])
    assert for_ever["dataset"] == FALLBACK["financial"]
    assert for_ever["seconds"] < 20


def test_every_source_fails(loopback: Hub, place: Place) -> None:
    primaries(loopback)
    loopback.fault(PRIMARY["wikipedia"], "error")
    loopback.fault(PRIMARY["legal"], "limit", ending=".gz")
    loopback.fault(PRIMARY["medical"], "forbidden")
    answers = place.fetch(loopback.url, ("wikipedia", 8000), ("legal", 8000), ("medical", 8000))
    for name, answer, reason in zip(("wikipedia", "legal", "medical"), answers, ("status 500", "(429)", "consent (403)"), strict=True):
        assert answer["error"].count("\n") == 1
        for part in (reason, f"{PRIMARY[name]}: ", f"{FALLBACK[name]}: no such data set", f"haystack prepare {name}", f"builtin/{name}"):
            assert part in answer["error"]
        assert answer["seconds"] < 20


@pytest.mark.parametrize("offline", [False, True])
def test_a_hub_that_is_down(place: Place, *, offline: bool) -> None:
    (answer,) = place.fetch(dead_url(), ("legal", 8000), HF_HUB_OFFLINE=str(int(offline)))
    assert answer["seconds"] < 20
    assert answer["error"].count("\n") == 1
    for part in (
        "HF_HUB_OFFLINE is set" if offline else "connection to the hub fails",
        "niah haystack prepare legal",
        "builtin/legal",
        "network",
    ):
        assert part in answer["error"]
    assert not (place.cache / "corpora").exists()


def test_a_source_that_ends_early_is_taken_with_a_note(loopback: Hub, place: Place) -> None:
    wikipedia(loopback, good=4)
    (answer,) = place.fetch(loopback.url, ("wikipedia", 1_000_000))
    one = hub.find_snapshot("wikipedia", place.cache)
    assert one is not None
    assert (one.count, list(one.notes)) == (4, answer["notes"])
    assert answer["notes"] == [f"wikimedia/wikipedia ended after {one.characters:,} characters, 1,000,000 were wanted"]


def test_a_renamed_column_is_named(loopback: Hub, place: Place) -> None:
    rows = [{"id": "1", "body": text, "title": "t"} for text in texts("article", 5)]
    files = {"20231101.en/train-00000-of-00001.parquet": parquet(rows)}
    loopback.add(PRIMARY["wikipedia"], files, card=card({"20231101.en": {"train": "20231101.en/*"}}))
    (answer,) = place.fetch(loopback.url, ("wikipedia", 8000))
    assert "it has no column 'text', only id, body, title" in answer["error"]
    assert answer["error"].count("\n") == 1


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real text at {REAL}")
def test_real_text_of_the_four_domains(loopback: Hub, place: Place) -> None:
    import pyarrow.parquet as pq

    config = card({"20231101.en": {"train": "20231101.en/train-*"}})
    loopback.add(PRIMARY["wikipedia"], {"20231101.en/train-00000.parquet": (REAL / "wikipedia.parquet").read_bytes()}, card=config)
    loopback.add(PRIMARY["financial"], {"1993.parquet": (REAL / "financial.parquet").read_bytes()})
    for name, revision in (("legal", CAP), ("medical", "main")):
        rows: list[dict[str, Any]] = pq.ParquetFile(REAL / f"{name}.parquet").read_row_group(0).to_pylist()
        loopback.add(PRIMARY[name], {"part_00000.jsonl.gz": json_lines(rows)}, revision=revision)
    answers = place.fetch(loopback.url, *((name, 300_000) for name in NAMES))
    for name, answer in zip(NAMES, answers, strict=True):
        assert (answer.get("dataset"), answer.get("notes")) == (PRIMARY[name], [])
        one = hub.find_snapshot(name, place.cache)
        assert one is not None
        table = pq.read_table(REAL / f"{name}.parquet", columns=["id", "text"]).to_pydict()
        kept = dict(zip(map(str, table["id"]), table["text"], strict=True))
        assert all(kept[id_].strip() == text for id_, _, text in one.documents())


def test_the_sources_of_the_four_corpora() -> None:
    for name in NAMES:
        first, second = hub.load_sources(name)
        assert (first.dataset, second.dataset, first.domain) == (PRIMARY[name], FALLBACK[name], name)
        assert first.licence
        assert first.url == f"https://huggingface.co/datasets/{first.dataset}"
    assert len(hub.load_sources("financial")[1].text) == 20


def test_bad_descriptions_of_a_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="did you mean 'wikipedia'"):
        hub.load_sources("wikipedai")
    with pytest.raises(UsageError):
        hub.load_sources("../haystacks/legal")
    good = (ROOT / "haystacks" / "medical.toml").read_text()
    (tmp_path / "haystacks").mkdir()
    for old, new, message in (
        ("split =", "slpit =", r"medical.toml, source 1: unknown key 'slpit'; did you mean 'split'\?"),
        ("licence =", "# licence =", "source 1: 'licence' is missing"),
        ("domain =", "domian =", "unknown key 'domian'"),
        ('id = "id"', "id = 3", "source 1: id must be a string"),
        ('text = "text"', 'text = ["text", 3]', "source 1: text must be a string"),
        ("[[source]]", "[[source", "no valid TOML"),
    ):
        (tmp_path / "haystacks" / "medical.toml").write_text(good.replace(old, new, 1))
        with pytest.raises(UsageError, match=message):
            hub.load_sources("medical")
    (tmp_path / "haystacks" / "medical.toml").write_text('domain = "medical"\nsource = []\n')
    with pytest.raises(UsageError, match="names no source"):
        hub.load_sources("medical")


def test_the_error_without_a_snapshot_names_both_ways_out() -> None:
    message = str(hub.missing("medical"))
    assert message.count("\n") == 1
    assert "`niah haystack prepare medical --tokens 2M`" in message
    assert "builtin/medical" in message


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NIAH_CACHE", str(tmp_path / "own"))
    assert hub.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("NIAH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for platform, folder in (("linux", "xdg/niah"), ("darwin", "Library/Caches/niah"), ("win32", "local/niah")):
        monkeypatch.setattr(sys, "platform", platform)
        assert hub.cache_folder() == tmp_path / folder
