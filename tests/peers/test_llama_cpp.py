"""Sweeps against llama-cpp-python's server: a second engine, with a strict window.

`make peers-all` makes its environment, which compiles for minutes; CI does not.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from niah.backends.completions import raw
from niah.run.plan import Plan, gather
from niah.trial import Cue, Prompt
from tests.hurry import hurry
from tests.peers.larger_checkpoint import render
from tests.peers.process import Peer, free_port, offline
from tests.peers.sweeps import CAP, KEY, sweep
from tests.run.command import experiment

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("NIAH_LLAMA_CPP_PYTHON") or ROOT / ".venv-llama-cpp" / "bin" / "python")
ABSENT = f"no llama-cpp-python: `make peers-all` makes it, or NIAH_LLAMA_CPP_PYTHON names its python ({PYTHON} is not there)"
TORCH = Path(os.environ.get("NIAH_PEERS_PYTHON") or ROOT / ".venv-peers" / "bin" / "python")
NO_CHECKPOINT = f"no checkpoint for llama.cpp: `make peers` makes the environment that writes it ({TORCH} is not there)"
CHECKPOINT = Path(__file__).with_name("larger_checkpoint.py")
WINDOW = 4096

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(not PYTHON.is_file(), reason=ABSENT),
    pytest.mark.skipif(not TORCH.is_file(), reason=NO_CHECKPOINT),
]
chat_and_raw = pytest.mark.parametrize("words", [(), ("--raw",)], ids=["chat", "raw"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama-cpp") / "checkpoint"
    subprocess.run((TORCH, CHECKPOINT, "make", folder), env=offline(), check=True, capture_output=True, timeout=120)
    return folder


@pytest.fixture(scope="module")
def peer(checkpoint: Path) -> Iterator[Peer]:
    place, file = checkpoint.parent, checkpoint.parent / "tiny.gguf"
    subprocess.run((PYTHON, CHECKPOINT, "gguf", checkpoint, file), env=offline(), check=True, capture_output=True, timeout=120)
    port = free_port()
    command = [PYTHON, "-m", "llama_cpp.server", "--model", file, "--model_alias", "tiny", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--n_ctx", str(WINDOW), "--n_threads", "1", "--api_key", KEY]
    with Peer(command, port=port, ready="/docs", log=place / "server.log", folder=place) as running:
        yield running


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, 100)


@chat_and_raw
def test_every_answer_is_kept(folder: Path, peer: Peer, words: tuple[str, ...]) -> None:
    """The cap is honoured (this server ignores `max_completion_tokens`), and the babble is a miss or cut."""
    swept = sweep(folder, peer, "server/tiny", words=words)
    assert swept.asked == [("/v1/completions" if words else "/v1/chat/completions", 200)] * 4, swept.err
    assert len(swept.records) == 4
    assert swept.outcomes.keys() <= {"miss", "cut"}
    for record in swept.records:
        assert record.reply is not None
        assert record.reply.model == "tiny"
        assert record.reply.usage.output is not None
        assert 0 < record.reply.usage.output <= CAP + 2  # /v1/completions counts up to two too many
        assert record.reply.stop in ("end", "length")


@chat_and_raw
@pytest.mark.parametrize("cue", ["off", "user", "prefill"])
def test_prompts_arrive_whole(folder: Path, peer: Peer, checkpoint: Path, cue: Cue, words: tuple[str, ...]) -> None:
    """It reports as many tokens as the checkpoint's own tokenizer makes of each prompt. A prefill: it ignores the switches and closes
    the begun answer as a turn of history."""
    swept = sweep(folder, peer, "server/tiny", cue=cue, words=words)
    made = experiment(folder / "small.toml")
    plan = Plan(made, gather(made))
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))

    def tokens(prompt: Prompt) -> int:
        return len(tokenizer.encode(raw(prompt) if words else render(prompt.messages()), add_special_tokens=False).ids)

    planned = {trial.key: tokens(plan.materials.maker.make(trial)) for trial in plan.trials((cue,))}
    assert {record.trial.key: record.reply and record.reply.usage.input for record in swept.records} == planned, swept.err


@chat_and_raw
def test_what_passes_the_window_is_an_overflow(folder: Path, peer: Peer, words: tuple[str, ...]) -> None:
    """400 context_length_exceeded, "you requested 6013 tokens": its own outcome, and never asked again."""
    swept = sweep(folder, peer, "server/tiny", lengths=[400, 6000], words=words)
    assert swept.outcomes["overflow"] == 4, swept.err
    assert sorted(swept.statuses) == [200] * 4 + [400] * 4
    assert (swept.told["overflow"], swept.told["errors"]) == (4, 0)
    assert sweep(folder, peer, "server/tiny", lengths=[400, 6000], words=words).asked == []


def test_a_wrong_key_costs_one_request(folder: Path, peer: Peer) -> None:
    """401 {"detail": "Invalid API key"}."""
    swept = sweep(folder, peer, "server/tiny", key="sk-wrong-0123456789")
    assert (swept.code, swept.statuses, swept.records) == (4, [401], [])
    assert "NIAH_SERVER_KEY" in swept.err
