"""The sources of the four corpora on a loopback hub, and fetches from it.

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

from tests.hub_server import Hub, card, json_lines, parquet

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
