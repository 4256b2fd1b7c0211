"""Sweeps in batches against the batch server, and what they left behind."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from niah.backends import batching
from niah.run import session
from niah.run.collecting import Pace
from niah.run.limits import Patience
from tests.batch_server import KEYS, BatchServer
from tests.run.command import found, here, summary

PROVIDERS = ("openai", "responses", "anthropic", "gemini")
KEY = "sk-test-0123456789abcdef"
QUICK = Pace(first=0.01, longest=0.03, grace=0.0, patience=Patience(base_seconds=0.002, longest_seconds=0.01))


def read(user: str) -> str:
    return found(SimpleNamespace(user=user))  # pyright: ignore[reportArgumentType]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "Pace", lambda: QUICK)


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer(read) as made:
        yield made


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    return request.param


def words(server: BatchServer, provider: str, *more: str, out: str = "run") -> list[str]:
    return ["sweep", "small.toml", "--model", f"{provider}/m", "--base-url", server.url(provider), "--out", out, "--yes", *more]


def sweep(server: BatchServer, provider: str, *more: str, out: str = "run") -> "subprocess.CompletedProcess[str]":
    return here(*words(server, provider, "--batch", *more, out=out), **{KEYS[provider]: KEY})


def limited(monkeypatch: pytest.MonkeyPatch, provider: str, **limits: Any) -> None:
    monkeypatch.setitem(batching.FORMATS, provider, replace(batching.FORMATS[provider], **limits))  # pyright: ignore[reportArgumentType]


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "batches.jsonl").read_text().splitlines()]


def table(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """What was measured: all but the cost, which is another one."""
    told = {model: {name: value for name, value in entry.items() if name != "cost"} for model, entry in summary(folder).items()}
    return (folder / "cells.csv").read_bytes(), told


def same_as_live(server: BatchServer, provider: str, folder: Path) -> bool:
    live = here(*words(server, provider, out="live"), **{KEYS[provider]: KEY})
    assert live.returncode == 0, live.stderr
    return table(folder / "run") == table(folder / "live")
