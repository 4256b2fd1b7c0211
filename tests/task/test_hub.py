"""The hub part of the corpora, against a loopback hub and the real `datasets`.

huggingface_hub reads HF_ENDPOINT when it is imported, so every fetch runs in a process of its own, which also shows the
exit status: a parquet stream that is left open aborts Python at its very end (134).
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from niah.errors import CorpusError, UsageError
from niah.task import hub, snapshot
from tests.hub_server import Hub, card, dead_url, json_lines, parquet

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data"
TOKEN = "hf_notarealtokenatall"
NAMES = ("wikipedia", "legal", "financial", "medical")
PRIMARY = {"wikipedia": "wikimedia/wikipedia", "legal": "common-pile/caselaw_access_project", "financial": "PleIAs/SEC"}
PRIMARY["medical"] = "common-pile/pubmed"
FALLBACK = {"wikipedia": "common-pile/wikimedia_filtered", "legal": "HFforLegal/case-law", "financial": "eloukas/edgar-corpus"}
FALLBACK["medical"] = "hatakeyama-llm-team/PMC"
CAP, CASE_LAW = "3c2cb5080b3a16a04d8d8d07b28eaec7c1ba7a90", "dc0151fad300088cc7c21773bd3d680e0a514311"

FETCH = """
import json, sys, time
from niah.errors import NiahError
from niah.task import hub
for name, characters in json.loads(sys.argv[1]):
    start, steps = time.monotonic(), []
    try:
        found = hub.prepare(name, characters_wanted=characters, progress=steps.append)
        answer = {"fingerprint": found.fingerprint, "folder": str(found.folder), "notes": found.notes, "dataset": found.dataset}
    except NiahError as error:
        answer = {"error": str(error)}
    print(json.dumps({**answer, "seconds": time.monotonic() - start, "steps": steps}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a test keeps the caches of niah and of Hugging Face."""

    root: Path

    @property
    def cache(self) -> Path:
        return self.root / "niah"

    def environment(self, url: str, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "NIAH_"))}
        own = {"HF_HOME": str(self.root / "hf"), "NIAH_CACHE": str(self.cache), "HF_ENDPOINT": url, "HF_TOKEN": TOKEN}
        return {**kept, **own, "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT), **more}

    def fetch(self, url: str, *wanted: tuple[str, int], **more: str) -> list[dict[str, Any]]:
        """Prepare corpora in a new process; it must end well and say nothing by itself."""
        command = [sys.executable, "-c", FETCH, json.dumps(wanted)]
        done = subprocess.run(
            command, env=self.environment(url, **more), cwd=self.root, capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert TOKEN not in done.stdout
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(root=tmp_path)


@pytest.fixture
def loopback() -> Iterator[Hub]:
    with Hub() as server:
        yield server


def texts(kind: str, count: int) -> list[str]:
    """Generated texts, the same on every call, of about 600 characters."""
    draw = random.Random(kind)
    words = ["".join(draw.choices("aeioulmnrst", k=draw.randint(2, 9))) for _ in range(300)]
    return [f"{kind} {number}. " + " ".join(draw.choices(words, k=100)) + "." for number in range(count)]


def wikipedia(server: Hub, *, good: int = 40) -> None:
    rows = [{"id": str(n), "url": f"u{n}", "title": f"Title {n}", "text": text} for n, text in enumerate(texts("article", good))]
    files = {f"20231101.en/train-0000{n}-of-00002.parquet": parquet(rows[n * good // 2 : (n + 1) * good // 2]) for n in range(2)}
    configs = {"20231101.en": {"train": "20231101.en/train-*"}, "20231101.de": {"train": "20231101.de/train-*"}}
    server.add(PRIMARY["wikipedia"], files, card=card(configs, columns=("id", "url", "title", "text")))


def pile(kind: str, count: int) -> list[dict[str, Any]]:
    """Rows as the Common Pile has them: an ISO date that the json reader takes for a time, and nested metadata."""
    return [
        {
            "id": f"f2d_{n}/html/0001-01.html",
            "source": kind,
            "added": "2024-08-24T03:29:58.419000",
            "created": "1993-01-01",
            "metadata": {"license": "Public Domain", "url": f"https://x.example/{n}", "authors": [{"first": "A", "last": "B"}]},
            "text": f"\n\n    {text}\n" if n else "   \n",
        }
        for n, text in enumerate(texts(kind, count))
    ]


def primaries(server: Hub) -> None:
    wikipedia(server)
    opinions = pile("opinion", 40)
    for opinion in opinions[20:]:  # columns that nobody asked for differ between shards
        opinion.update(created="circa 1900", metadata={"license": None, "author": 3})
    server.add(PRIMARY["legal"], {f"cap_0000{n}.jsonl.gz": json_lines(opinions[n * 20 : n * 20 + 20]) for n in range(2)}, revision=CAP)
    filings = [
        {
            "filename": f"718413_{n}.txt",
            "id": 7000 + n % 30,
            "year": 1993,
            "cik": 718413,
            "text": text,
            "word_count": 9,
            "character_count": 9,
        }
        for n, text in enumerate(texts("filing", 40))
    ]
    server.add(PRIMARY["financial"], {"1993.parquet": parquet(filings[:20]), "1994.parquet": parquet(filings[20:])})
    server.add(PRIMARY["medical"], {"pubmed-0000.jsonl.gz": json_lines(pile("paper", 40))})


def fallbacks(server: Hub) -> None:
    server.add(FALLBACK["wikipedia"], {"wiki-0000.jsonl.gz": json_lines(pile("other article", 40))})
    cases = [
        {"id": f"c{n}", "title": f"A v. B {n}", "citation": "1 F.", "docket_number": "1", "state": "x", "issuer": "y", "document": text}
        for n, text in enumerate(texts("other opinion", 40))
    ]
    server.add(
        FALLBACK["legal"],
        {"data/us-00000-of-00001.parquet": parquet(cases)},
        card=card({"default": {"us": "data/us-*"}}),
        revision=CASE_LAW,
    )
    numbers = ("1", "1A", "1B", "2", "3", "4", "5", "6", "7", "7A", "8", "9", "9A", "9B", "10", "11", "12", "13", "14", "15")
    reports = [
        {
            "filename": f"{n}_2020.htm",
            "cik": str(n),
            "year": "2020",
            **{f"section_{s}": f"{text} Item {s}." for s in numbers},
            "section_9B": "",
        }
        for n, text in enumerate(texts("other filing", 10))
    ]
    script = {"edgar-corpus.py": b"raise SystemExit"}
    server.add(FALLBACK["financial"], {"year_2020/train/0000.parquet": parquet(reports), **script}, revision="refs/convert/parquet")
    server.add(
        FALLBACK["medical"],
        {"data/PMC002-0.parquet": parquet([{"text": text} for text in texts("other paper", 40)])},
        card=card({"default": {"PMC002xxxxxx_0": "data/PMC002-*"}}),
    )


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
