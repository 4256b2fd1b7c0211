"""Sweeps against a server in trouble: twelve kinds of it, each the answer to some of the requests, drawn by the request and the try.

Which requests fail does not depend on the order in which they come, so what a sweep has to ask is known before it begins:
every prompt until its first good answer, and not once more. Waits pass SPEED times faster than they are asked for.
"""

import hashlib
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from niah.run.limits import Patience
from tests.chat_server import Answer, Asked, ChatServer, failure
from tests.hurry import hurry
from tests.run.command import QUESTIONS, TEXTS, cells, here, lines, summary, write_config

SPEED = 250
TIMEOUT_SECONDS = 1.0
SHARE = 0.3
ATTEMPTS, ATTEMPTS_WHEN_LIMITED = Patience().attempts, Patience().attempts_when_limited
KEYS = {"NIAH_SERVER_KEY": "k", "ANTHROPIC_API_KEY": "k", "GEMINI_API_KEY": "k", "OPENAI_API_KEY": "k"}


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, SPEED)


# The wire formats: a good answer, and what the kinds of trouble look like in each.


@dataclass(frozen=True, kw_only=True)
class Format:
    """What a server of one wire format says."""

    good: Callable[[str, int], Any]
    """The body of an answer with this text, to a prompt of so many tokens."""
    overloaded: Any
    empty: Any
    wrong: tuple[Any, ...]


FORMATS: Mapping[str, Format] = {
    "server": Format(
        good=lambda text, tokens: {
            "model": "m",
            "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": tokens, "completion_tokens": 9},
        },
        overloaded={"error": {"message": "Overloaded", "type": "overloaded_error", "code": 529}},
        empty={"model": "m", "choices": []},
        wrong=({"hello": 1}, {"choices": {"a": "b"}}, {"choices": [{"message": "text"}]}, [], [1], None, "fine", 7),
    ),
    "anthropic": Format(
        good=lambda text, tokens: {
            "type": "message",
            "model": "m",
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": tokens, "output_tokens": 9},
        },
        overloaded={"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        empty={"type": "message", "model": "m", "content": None, "stop_reason": None},
        wrong=({"hello": 1}, {"type": "message", "content": "text"}, [], None, 7),
    ),
    "gemini": Format(
        good=lambda text, tokens: {
            "candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": tokens, "candidatesTokenCount": 9},
        },
        overloaded={"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}},
        empty={"candidates": []},
        wrong=({"hello": 1}, {"candidates": "text"}, [], None, 7),
    ),
    "responses": Format(
        good=lambda text, tokens: {
            "model": "m",
            "status": "completed",
            "output": [{"type": "message", "content": [{"type": "output_text", "text": text}]}],
            "usage": {"input_tokens": tokens, "output_tokens": 9},
        },
        overloaded={"status": "failed", "error": {"code": "server_error", "message": "Overloaded"}, "output": []},
        empty={"status": "completed", "output": None},
        wrong=({"hello": 1}, {"status": "completed", "output": {"a": "b"}}, [], None, 7),
    ),
}

WAITS = ("nothing", "seconds", "fraction", "milliseconds", "date", "reset", "delay", "zero", "minus one")
"""The forms in which a server says how long to wait, and some in which it does not."""
NAMED_WAITS = frozenset(WAITS) - {"nothing", "zero", "minus one"}
WAIT_SECONDS = 2.0


def limited(form: str) -> Answer:
    """A 429 that asks for WAIT_SECONDS in one of the forms."""
    now = datetime.now(UTC)
    headers: dict[str, dict[str, str]] = {
        "seconds": {"retry-after": f"{WAIT_SECONDS:.0f}"},
        "fraction": {"Retry-After": f"{WAIT_SECONDS}"},
        "milliseconds": {"retry-after-ms": f"{1000 * WAIT_SECONDS:.0f}", "retry-after": "9"},
        "date": {
            "date": format_datetime(now, usegmt=True),
            "retry-after": format_datetime(now + timedelta(seconds=WAIT_SECONDS), usegmt=True),
        },
        "reset": {
            "x-ratelimit-limit-requests": "6000",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": f"{1000 * WAIT_SECONDS:.0f}ms",
        },
        "zero": {"retry-after": "0"},
        "minus one": {"retry-after": "-1"},
    }
    error: dict[str, Any] = {"code": 429, "message": "Too many requests"}
    if form == "delay":
        error["details"] = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{WAIT_SECONDS:.0f}s"}]
    return Answer(status=429, body={"error": error}, headers=headers.get(form, {}))


Trouble = Callable[[Format, Answer, random.Random], Answer]
HTML = {"content-type": "text/html; charset=utf-8"}
PAGE = "<html><head><title>502 Bad Gateway</title></head><body><h1>502</h1></body></html>"
TROUBLES: Mapping[str, Trouble] = {
    "500": lambda format, good, draw: failure(500, draw.choice([None, "Internal Server Error", {"detail": "oops"}, ""])),
    "502 HTML": lambda format, good, draw: Answer(status=502, body=PAGE, headers=HTML),
    "529": lambda format, good, draw: failure(529, format.overloaded),
    "timeout": lambda format, good, draw: replace(good, delay=10 * TIMEOUT_SECONDS),
    "reset before the body": lambda format, good, draw: Answer(reset=True) if draw.random() < 0.5 else replace(good, cut=0),
    "reset amid the body": lambda format, good, draw: replace(good, cut=draw.randint(1, 60)),
    "truncated JSON": lambda format, good, draw: Answer(
        body=json.dumps(good.body)[: draw.randint(1, 60)], headers={"content-type": "application/json"}
    ),
    "wrong JSON": lambda format, good, draw: Answer(
        body=json.dumps(draw.choice(format.wrong)), headers={"content-type": "application/json"}
    ),
    "empty answer": lambda format, good, draw: Answer(body=format.empty),
    "slow trickle": lambda format, good, draw: replace(good, trickle=10 * TIMEOUT_SECONDS),
    "overloaded inside a 200": lambda format, good, draw: Answer(body=format.overloaded),
    "429": lambda format, good, draw: limited("nothing"),
}


def name_of(asked: Asked) -> str:
    """A name of a request's body, in any format."""
    return hashlib.sha256(json.dumps(asked.body, sort_keys=True).encode()).hexdigest()[:16]


def answer_to(asked: Asked) -> str:
    """What a reader with a blind spot says: for two in three prompts the needle's sentence."""
    said = json.dumps(asked.body)
    needle = next(id_ for id_, question in QUESTIONS.items() if question in said)
    assert TEXTS[needle] in said
    return "Nobody knows." if int(name_of(asked), 16) % 3 == 0 else TEXTS[needle]


@dataclass
class Faults:
    """Answers requests, and draws for each try of each whether it goes wrong, and how."""

    format: Format
    seed: int = 0
    share: float = SHARE
    tally: Counter[str] = field(default_factory=Counter[str])
    good: Counter[str] = field(default_factory=Counter[str])
    came: dict[str, list[float]] = field(default_factory=lambda: defaultdict[str, list[float]](list))
    """When each request came, by its name."""
    waits: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict[str, dict[int, float]](dict))
    """The seconds that the answer to a try, counted from 0, asked to wait."""

    def trouble(self, name: str, number: int) -> tuple[str, random.Random] | None:
        """What happens at a try, counted from 0."""
        draw = random.Random(f"{self.seed} {name} {number}")
        return (draw.choice(list(TROUBLES)), draw) if draw.random() < self.share else None

    def needed(self, name: str) -> int:
        """The tries that a request needs."""
        return 1 + next(number for number in range(1000) if self.trouble(name, number) is None)

    def bearable(self, names: Collection[str]) -> bool:
        """Whether a patient client gets an answer to each, and every kind of trouble happens."""
        needed = {name: self.needed(name) for name in names}
        met = {drawn[0] for name, tries in needed.items() for number in range(tries) if (drawn := self.trouble(name, number))}
        return max(needed.values()) <= ATTEMPTS and met == set(TROUBLES)

    def __call__(self, asked: Asked) -> Answer:
        name = name_of(asked)
        number = len(self.came[name])
        self.came[name].append(time.monotonic())
        good, drawn = Answer(body=self.format.good(answer_to(asked), len(json.dumps(asked.body)) // 5)), self.trouble(name, number)
        if drawn is None:
            self.good[name] += 1
            return good
        kind, draw = drawn
        form = draw.choice(WAITS)
        self.tally[f"429, {form}" if kind == "429" else kind] += 1
        if kind == "429":
            self.waits[name][number] = WAIT_SECONDS if form in NAMED_WAITS else 0.0
            return limited(form)
        return TROUBLES[kind](self.format, good, draw)


def sweep(config: Path, server: ChatServer, out: str, *, keys: Mapping[str, str] = KEYS) -> tuple[int, str]:
    """Exit code and what stood on stderr."""
    url = server.url.replace("/v1", "/v1beta") if "gemini" in config.name else server.url
    done = here("sweep", config, "--base-url", url, "--out", out, "--concurrency", "32", **keys)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def counts(folder: Path) -> dict[str, int]:
    """Trials, and what kept others from being scored, over all models."""
    names = ("trials", "errors", "missing", "cut", "refused", "truncated", "overflow")
    return {name: sum(told.get(name, 0) for told in summary(folder).values()) for name in names}


def quiet_run(config: Path, format: str) -> set[str]:
    """The names of all requests of a sweep that nothing disturbs; its table lies in the folder `quiet`."""
    quiet = Faults(FORMATS[format], share=0.0)
    with ChatServer(quiet) as server:
        assert sweep(config, server, "quiet") == (0, "")
    assert set(quiet.good.values()) == {1}
    return set(quiet.came)


def same_table(folder: Path) -> bool:
    return (folder / "run" / "cells.csv").read_bytes() == (folder / "quiet" / "cells.csv").read_bytes()


def replies(folder: Path) -> list[str]:
    return [line["key"] for line in lines(folder) if line["reply"]]


# The tests


@pytest.mark.parametrize(("format", "reshuffles"), [("server", 24), ("anthropic", 8), ("gemini", 8), ("responses", 8)])
def test_the_table_is_that_of_a_quiet_run_and_nothing_paid_for_is_asked_again(folder: Path, format: str, reshuffles: int) -> None:
    """30% of all requests go wrong, in twelve ways; what was answered is kept, and every prompt asked just until then."""
    config = write_config(folder, name=format, models=[f"{format}/m"], reshuffles=reshuffles, timeout_seconds=TIMEOUT_SECONDS)
    names = quiet_run(config, format)
    assert len(names) == 2 * 3 * reshuffles
    faults = next(faults for seed in range(1000) if (faults := Faults(FORMATS[format], seed=seed)).bearable(names))
    with ChatServer(faults) as server:
        assert sweep(config, server, "run") == (0, "")

    assert same_table(folder)
    assert {row["recall"] for row in cells(folder / "run")} - {"0.0", "1.0"}, "a table that says something"
    told = counts(folder / "run")
    assert told == counts(folder / "quiet") == {**dict.fromkeys(told, 0), "trials": len(names)}

    assert {name: len(times) for name, times in faults.came.items()} == {name: faults.needed(name) for name in names}
    assert set(faults.good.values()) == {1}
    assert len(replies(folder / "run")) == len(set(replies(folder / "run"))) == len(lines(folder / "run")) == len(names)
    assert {kind.partition(",")[0] for kind in faults.tally} == set(TROUBLES), "every kind of trouble happened"
    for name, waits in faults.waits.items():
        for number, seconds in waits.items():
            assert faults.came[name][number + 1] - faults.came[name][number] >= 0.95 * seconds / SPEED


@pytest.mark.parametrize("kinds", [list(TROUBLES)[:6], list(TROUBLES)[6:]], ids=" + ".join)
def test_trouble_that_does_not_end_is_given_up_after_the_bound_and_no_miss(folder: Path, kinds: list[str]) -> None:
    """Six prompts that always fail, each in its way: asked as often as the bound says, recorded as errors, asked again on resume."""
    config = write_config(folder, name="server", reshuffles=4, timeout_seconds=TIMEOUT_SECONDS)
    names = sorted(quiet_run(config, "server"))
    doomed = dict(zip(names[:: len(names) // 6], kinds, strict=False))
    assert len(doomed) == len(kinds) == 6
    faults = Faults(FORMATS["server"], share=0.0)

    def answer(asked: Asked) -> Answer:
        kind, good = doomed.get(name_of(asked)), faults(asked)
        if kind == "429":
            return limited("seconds")
        return TROUBLES[kind](faults.format, good, random.Random(asked.number)) if kind else good

    with ChatServer(answer) as server:
        code, said = sweep(config, server, "run")
        assert code == 3
        assert said.count("\n") == 1
        bound = {name: ATTEMPTS_WHEN_LIMITED if kind == "429" else ATTEMPTS for name, kind in doomed.items()}
        assert {name: len(times) for name, times in faults.came.items()} == dict.fromkeys(names, 1) | bound
        failed = [line for line in lines(folder / "run") if line["error"]]
        assert len(failed) == 6
        assert not any(line["scores"] or line["reply"] for line in failed)
        told = counts(folder / "run")
        assert told == {**dict.fromkeys(told, 0), "trials": len(names) - 6, "errors": 6}

        before, doomed = len(server.log), {}
        assert sweep(config, server, "run") == (0, "")
        assert {name_of(asked) for asked in server.log[before:]} == set(bound)
        assert len(server.log) == before + 6
    assert same_table(folder)
    assert sorted(replies(folder / "run")) == sorted(replies(folder / "quiet"))


@pytest.mark.parametrize("body", [{"error": {"message": "Incorrect API key provided."}}, {"error": "Unauthorized"}, "go away"])
def test_a_key_that_is_refused_halfway_stops_at_once_and_a_good_one_goes_on(folder: Path, body: Any) -> None:
    """401 after 60 answers: no request but those in flight; with another key exactly the rest is asked."""
    config = write_config(folder, name="server", reshuffles=24, timeout_seconds=TIMEOUT_SECONDS)
    names = quiet_run(config, "server")
    faults, valid = Faults(FORMATS["server"], share=0.0), "first-key-0123456789"

    def answer(asked: Asked) -> Answer:
        if asked.headers.get("authorization") != f"Bearer {valid}" or (asked.session == 0 and asked.number >= 60):
            return failure(401, body)
        return replace(faults(asked), delay=0.01)

    with ChatServer(answer) as server:
        code, said = sweep(config, server, "run", keys={"NIAH_SERVER_KEY": valid})
        assert code == 4
        assert "NIAH_SERVER_KEY" in said
        assert valid not in said
        assert len(replies(folder / "run")) == len(lines(folder / "run")) == 60
        assert 1 <= len(server.log) - 60 <= 32

        server.session, refused = 1, len(server.log)
        assert sweep(config, server, "run", keys={"NIAH_SERVER_KEY": valid})[0] == 0
        assert len(server.log) - refused == len(names) - 60
    assert set(faults.good.values()) == {1}
    assert same_table(folder)
    assert sorted(replies(folder / "run")) == sorted(replies(folder / "quiet"))
