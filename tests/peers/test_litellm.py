"""Sweeps through the litellm proxy: every wire format of ours against somebody else's idea of it, with keys, refusals and overflows.

Behind the proxy stand its mocks, a server of ours that finds needles, and `transformers serve` with a real model.
"""

import asyncio
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from niah.backends import Connection
from niah.backends.remote import open_remote
from niah.run.limits import Patience
from niah.run.plan import Plan, gather
from niah.run.store import read
from niah.trial import Record, outcome
from tests.chat_server import Answer, Asked, ChatServer, completion, failure
from tests.hurry import hurry
from tests.peers.litellm_proxy import KEY, Mock, Passage, Proxy
from tests.peers.process import offline
from tests.peers.server import Server
from tests.run.command import experiment, found, here, prompts, summary, write_config

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("NIAH_LITELLM_PYTHON") or ROOT / ".venv-litellm" / "bin" / "python")
ABSENT = f"no litellm: `make peers` makes its environment, or NIAH_LITELLM_PYTHON names its python ({PYTHON} is not there)"
TRANSFORMERS = Path(os.environ.get("NIAH_PEERS_PYTHON") or ROOT / ".venv-peers" / "bin" / "python")
WITHOUT_TRANSFORMERS = f"no transformers serve behind litellm: `make peers` makes it ({TRANSFORMERS} is not there)"
MAKE_CHECKPOINT = Path(__file__).with_name("tiny_checkpoint.py")

pytestmark = [pytest.mark.peers, pytest.mark.skipif(not PYTHON.is_file(), reason=ABSENT), pytest.mark.timeout(1200)]

CAP = 64
SAYS = "It was a mason called Hob Grindrel."
OVERFLOW = "This model's maximum context length is 4096 tokens. However, you requested 6013 tokens. Please reduce the length."


@dataclass(frozen=True, kw_only=True)
class Format:
    """What a prefix of ours sends to, where its key is, and what the proxy's mocks invent as usage."""

    path: str
    variable: str
    invented: tuple[int, int]
    served: bool = True
    """The answer names the model."""


FORMATS = {
    "server": Format(path="/v1/chat/completions", variable="NIAH_SERVER_KEY", invented=(10, 20)),
    "openai": Format(path="/v1/chat/completions", variable="OPENAI_API_KEY", invented=(10, 20)),
    "anthropic": Format(path="/v1/messages", variable="ANTHROPIC_API_KEY", invented=(2095, 503)),
    "gemini": Format(path="/v1beta/models/{}:generateContent", variable="GEMINI_API_KEY", invented=(10, 20), served=False),
    "responses": Format(path="/v1/responses", variable="OPENAI_API_KEY", invented=(36, 87)),
}
MOCKS = {"server": "mock-gpt", "openai": "mock-gpt", "anthropic": "mock-claude", "gemini": "mock-gemini", "responses": "mock-gpt"}
each_format = pytest.mark.parametrize("format", FORMATS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("litellm")


@pytest.fixture(scope="module")
def behind() -> Iterator[ChatServer]:
    """Our own server behind the proxy; tests set its `answer`."""
    with ChatServer() as server:
        yield server


@pytest.fixture(scope="module")
def transformers(place: Path) -> Server:
    """Not started yet, but with a port."""
    return Server(TRANSFORMERS, place / "tiny", place / "transformers.log")


@pytest.fixture(scope="module")
def proxy(place: Path, behind: ChatServer, transformers: Server) -> Iterator[Proxy]:
    models = [
        Mock(name="mock-gpt", says=SAYS),
        Mock(name="mock-claude", says=SAYS, of="anthropic/claude-haiku-4-5"),
        Mock(name="mock-gemini", says=SAYS, of="gemini/gemini-3.5-flash"),
        Mock(name="limited", says="litellm.RateLimitError"),
        Mock(name="toolong", says="litellm.ContextWindowExceededError"),
        Passage(name="reader", url=behind.url),
        Passage(name="tiny", url=transformers.url, model=transformers.model),
    ]
    with Proxy(PYTHON, models, place) as running:
        yield running


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, 1000)


@dataclass(frozen=True, kw_only=True)
class Swept:
    """How a sweep through the proxy ended, and the statuses of what it asked."""

    code: int
    err: str
    records: list[Record]
    statuses: list[int]
    told: dict[str, Any]

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(outcome(record) for record in self.records)


def sweep(folder: Path, proxy: Proxy, format: str, name: str, *, key: str = KEY, words: tuple[str, ...] = (), **fields: Any) -> Swept:
    """Sweep one of the proxy's models in one format, in the working directory."""
    shape = {"lengths": [300, 500], "depths": [0.0, 1.0], "reshuffles": 3, "cue": "user", "sampling": {"max_output_tokens": CAP}}
    config = write_config(folder, models=[f"{format}/{name}"], **{**shape, "concurrency": 4, **fields})
    url = proxy.gemini_url if format == "gemini" else proxy.url
    path, before = FORMATS[format].path.format(name), len(proxy.asked())
    environment = {FORMATS[format].variable: key, "NO_PROXY": "127.0.0.1"}
    done = here("sweep", config, "--base-url", url, "--out", "run", *words, **environment)
    assert key not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    run = folder / "run"
    asked = proxy.asked()[before:]
    assert {where for where, _ in asked} <= {path}
    return Swept(
        code=done.returncode,
        err=done.stderr,
        records=list(read(run)) if run.exists() else [],
        statuses=[status for _, status in asked],
        told=summary(run)[f"{format}/{name}"] if (run / "summary.json").exists() else {},
    )


def usage(asked: Asked) -> dict[str, Any]:
    tokens = sum(len(message["content"]) for message in asked.messages) // 5
    return {"prompt_tokens": tokens, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 100}}


# A server behind the proxy that finds needles


@each_format
def test_needles_are_found_through_every_format(folder: Path, proxy: Proxy, behind: ChatServer, format: str) -> None:
    """The planned messages arrive word for word, and text, stop, usage and served model come back; what is not found is a miss."""
    behind.answer = lambda asked: completion(found(asked) if asked.id[0] < "9" else "Nobody knows.", usage=usage(asked))
    before = len(behind.log)
    swept = sweep(folder, proxy, format, "reader")
    assert (swept.code, swept.err) == (0, "")
    table = prompts(experiment(folder / "small.toml"))
    arrived = {asked.id: asked for asked in behind.log[before:]}
    assert set(arrived) == set(table)
    assert len(behind.log) - before == len(table) == len(swept.records) == 12
    assert swept.statuses == [200] * 12
    assert {asked.body.get("max_tokens") or asked.body["max_completion_tokens"] for asked in arrived.values()} == {CAP}
    by_key = {trial.key: arrived[id_] for id_, trial in table.items()}
    for record in swept.records:
        asked, reply = by_key[record.trial.key], record.reply
        assert reply is not None
        assert reply.text == (found(asked) if asked.id[0] < "9" else "Nobody knows.")
        assert outcome(record) == ("hit" if asked.id[0] < "9" else "miss")
        assert (reply.stop, reply.model) == ("end", "reader" if FORMATS[format].served else "")
        assert (reply.usage.input, reply.usage.output) == (usage(asked)["prompt_tokens"], 9)
        assert reply.usage.cached in ((None, 100) if format == "gemini" else (100,))
        assert 0 < reply.seconds < 30
    assert 0 < swept.outcomes["hit"] < 12
    assert swept.told["recall"] == round(swept.outcomes["hit"] / 12, 6)


@each_format
def test_a_cut_answer_is_no_miss_in_any_format(folder: Path, proxy: Proxy, behind: ChatServer, format: str) -> None:
    behind.answer = lambda asked: completion("It was", finish="length", usage=usage(asked) | {"completion_tokens": CAP})
    swept = sweep(folder, proxy, format, "reader")
    assert [record.reply and record.reply.stop for record in swept.records] == ["length"] * 12
    assert swept.outcomes == {"cut": 12}
    assert (swept.told["cut"], swept.told["trials"], swept.told["recall"]) == (12, 0, None)


@each_format
def test_an_overflow_is_its_own_outcome_in_every_format(folder: Path, proxy: Proxy, behind: ChatServer, format: str) -> None:
    """Some prompts do not fit the window: each is asked once, never again, and is no miss."""

    def answer(asked: Asked) -> Answer:
        if asked.id[0] < "9":
            return failure(400, {"error": {"message": OVERFLOW, "type": "BadRequestError", "param": "input_tokens", "code": 400}})
        return completion(found(asked), usage=usage(asked))

    behind.answer = answer
    swept = sweep(folder, proxy, format, "reader")
    over = sum(id_[0] < "9" for id_ in prompts(experiment(folder / "small.toml")))
    assert 0 < over < 12
    assert swept.outcomes == {"hit": 12 - over, "overflow": over}, swept.err
    assert sorted(swept.statuses) == [200] * (12 - over) + [400] * over
    assert (swept.code, swept.told["overflow"], swept.told["trials"], swept.told["recall"]) == (0, over, 12 - over, 1)
    assert {record.error.kind for record in swept.records if record.error} == {"context_overflow"}
    assert sweep(folder, proxy, format, "reader").statuses == []


@each_format
def test_a_busy_server_is_asked_again(folder: Path, proxy: Proxy, behind: ChatServer, format: str) -> None:
    """429 and 503 in turns: every prompt is asked until it is answered, and not once more."""
    tries: Counter[str] = Counter()

    def answer(asked: Asked) -> Answer:
        tries[asked.id] += 1
        refused = tries[asked.id] <= int(asked.id[0], 16) % 4
        return failure(429 if tries[asked.id] % 2 else 503) if refused else completion(found(asked), usage=usage(asked))

    behind.answer = answer
    swept = sweep(folder, proxy, format, "reader")
    assert (swept.code, swept.outcomes) == (0, {"hit": 12}), swept.err
    assert tries == {id_: 1 + int(id_[0], 16) % 4 for id_ in tries}
    assert len(tries) == swept.statuses.count(200) == 12


def test_the_proxys_own_count_of_tokens(folder: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """/v1/messages/count_tokens, of which litellm gives an estimate of its own."""
    config = write_config(folder, lengths=[500], depths=[0.5], reshuffles=1)
    plan = Plan(experiment(config), gather(experiment(config)))
    prompt = plan.materials.maker.make(next(plan.trials(("user",))))
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)

    async def count() -> int | None:
        backend = open_remote("anthropic", "mock-claude", Connection(base_url=proxy.url))
        try:
            return await backend.count(prompt)
        finally:
            await backend.close()

    counted = asyncio.run(count())
    assert counted is not None
    assert 0.5 * prompt.tokens < counted < 2 * prompt.tokens


# Mocks


@each_format
def test_a_mock_answers_and_its_invented_usage_is_recorded_and_not_believed(folder: Path, proxy: Proxy, format: str) -> None:
    """The fact is in the text. A prompt that is said to have had a handful of tokens counts as cut by the server: no hit, no miss."""
    swept = sweep(folder, proxy, format, MOCKS[format], needles=one_needle(folder), lengths=[300])
    wanted = FORMATS[format]
    for record in swept.records:
        assert record.reply is not None
        assert (record.reply.text, record.reply.stop) == (SAYS, "end")
        assert (record.reply.usage.input, record.reply.usage.output) == wanted.invented
        assert record.reply.model == (MOCKS[format] if wanted.served else "")
    enough = wanted.invented[0] > 500
    assert swept.outcomes == {"hit" if enough else "truncated": 6}
    assert swept.code == (0 if enough else 3)
    assert swept.told["recall"] == (1 if enough else None)


def one_needle(folder: Path) -> str:
    """A set with the one needle that the mocks know."""
    text = 'id = "bell"\ntext = "The bell tower of Quessenby was finished by a mason called Hob Grindrel."\n'
    text += 'question = "Which mason finished the bell tower of Quessenby?"\nanswers = [["Hob Grindrel", "Grindrel"]]\n'
    (folder / "one.toml").write_text(f'name = "one"\n[[needle]]\n{text}', encoding="utf-8")
    return "one.toml"


@pytest.mark.parametrize("format", ["server", "openai", "anthropic"])
def test_a_model_that_is_always_limited_is_given_up_after_the_bound(folder: Path, proxy: Proxy, format: str) -> None:
    """Of the first trial every try is refused: an error, exit 4, no second trial, and nothing that looks like a miss."""
    swept = sweep(folder, proxy, format, "limited")
    assert swept.code == 4
    assert "mock rate limit error" in swept.err
    assert swept.statuses == [429] * Patience().attempts_when_limited
    assert [(record.reply, record.scores) for record in swept.records] == [(None, ())]
    assert [record.error and record.error.kind for record in swept.records] == ["rate_limit"]
    assert (swept.told["trials"], swept.told["recall"]) == (0, None)


@pytest.mark.parametrize("format", ["server", "openai", "anthropic"])
def test_a_window_that_is_too_small_for_everything(folder: Path, proxy: Proxy, format: str) -> None:
    swept = sweep(folder, proxy, format, "toolong")
    assert swept.outcomes == {"overflow": 12}
    assert swept.statuses == [400] * 12
    assert (swept.code, swept.told["overflow"], swept.told["trials"], swept.told["recall"]) == (3, 12, 0, None)


# Keys and names


@each_format
def test_a_wrong_key_is_named_at_the_first_request(folder: Path, proxy: Proxy, format: str) -> None:
    """litellm without a database says 400 "No connected db." of it."""
    swept = sweep(folder, proxy, format, "reader", key="sk-wrong-0123456789")
    assert swept.code == 4
    assert swept.err.count("\n") == 1
    assert FORMATS[format].variable in swept.err
    assert swept.statuses == [400]
    assert swept.records == []


def test_another_variable_may_hold_the_key(folder: Path, proxy: Proxy, behind: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    behind.answer = lambda asked: completion(found(asked), usage=usage(asked))
    monkeypatch.setenv("PROXYS_KEY", KEY)
    swept = sweep(folder, proxy, "anthropic", "reader", key="sk-wrong-0123456789", words=("--key-variable", "PROXYS_KEY"))
    assert (swept.code, swept.outcomes) == (0, {"hit": 12}), swept.err


@each_format
def test_a_model_that_is_not_there_costs_one_request(folder: Path, proxy: Proxy, format: str) -> None:
    swept = sweep(folder, proxy, format, "nobody")
    assert (swept.code, swept.statuses, swept.records) == (4, [400], [])
    assert "nobody" in swept.err
    assert swept.err.count("\n") == 1


# A real model behind the proxy


@pytest.mark.skipif(not TRANSFORMERS.is_file(), reason=WITHOUT_TRANSFORMERS)
def test_one_checkpoint_answers_in_every_format(folder: Path, proxy: Proxy, transformers: Server, place: Path) -> None:
    """`transformers serve` behind litellm: the same babble, stop and tokens whichever format asks, as the messages are the same."""
    command = [TRANSFORMERS, MAKE_CHECKPOINT, "make", place / "tiny"]
    subprocess.run(command, env=offline(), check=True, capture_output=True, timeout=120)
    answers: dict[str, dict[str, Any]] = {}
    with transformers:
        for format in FORMATS:
            (folder / format).mkdir()
            swept = sweep_in(folder / format, proxy, format)
            assert swept.statuses == [200] * 4, swept.err
            assert swept.outcomes.keys() <= {"miss", "cut"}
            answers[format] = {
                record.trial.key: (record.reply.text, record.reply.stop, record.reply.usage.input, record.reply.usage.output)
                for record in swept.records
                if record.reply
            }
            assert len(answers[format]) == 4
        assert transformers.statuses() == [200] * 4 * len(FORMATS), transformers.tail()
    assert {len(set(map(str, each.values()))) for each in answers.values()} == {4}, "an answer of its own for each prompt"
    assert answers == dict.fromkeys(FORMATS, answers["server"])


def sweep_in(place: Path, proxy: Proxy, format: str) -> Swept:
    """Four greedy trials with a short cap, in a folder of their own."""
    came_from = Path.cwd()
    os.chdir(place)
    try:
        return sweep(place, proxy, format, "tiny", reshuffles=1, concurrency=1, sampling={"max_output_tokens": 12, "temperature": 0})
    finally:
        os.chdir(came_from)
