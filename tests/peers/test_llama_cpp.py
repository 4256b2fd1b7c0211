"""Sweeps against llama-cpp-python's server: a second engine, with a strict window.

Its environment is not made by `make peers`, as it compiles for minutes. NIAH_LLAMA_CPP_PYTHON names its python, made by
    pip install 'llama-cpp-python[server]' gguf safetensors
with CMAKE_BUILD_PARALLEL_LEVEL=1 CMAKE_ARGS="-DGGML_NATIVE=OFF -DLLAMA_BUILD_TESTS=OFF"
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from niah.trial import Record
from tests.hurry import hurry
from tests.peers.process import Peer, free_port
from tests.peers.server import offline
from tests.peers.sweeps import CAP, KEY, sweep

PYTHON = Path(os.environ.get("NIAH_LLAMA_CPP_PYTHON") or "(not set)")
ABSENT = f"no llama-cpp-python: NIAH_LLAMA_CPP_PYTHON names the python of its environment ({PYTHON} is not there)"
ROOT = Path(__file__).parents[2]
TORCH = Path(os.environ.get("NIAH_PEERS_PYTHON") or ROOT / ".venv-peers" / "bin" / "python")
NO_CHECKPOINT = f"no checkpoint for llama.cpp: `make peers` makes the environment that writes it ({TORCH} is not there)"
CHECKPOINT = Path(__file__).with_name("larger_checkpoint.py")
WINDOW = 4096

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(not PYTHON.is_file(), reason=ABSENT),
    pytest.mark.skipif(not TORCH.is_file(), reason=NO_CHECKPOINT),
]


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    place = tmp_path_factory.mktemp("llama-cpp")
    checkpoint, file = place / "checkpoint", place / "tiny.gguf"
    for command in ((TORCH, CHECKPOINT, "make", checkpoint), (PYTHON, CHECKPOINT, "gguf", checkpoint, file)):
        subprocess.run(command, env=offline(), check=True, capture_output=True, timeout=120)
    port = free_port()
    command = [PYTHON, "-m", "llama_cpp.server", "--model", file, "--model_alias", "tiny", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--n_ctx", str(WINDOW), "--n_threads", "1", "--api_key", KEY]
    with Peer(command, port=port, ready="/docs", log=place / "server.log", environment={}, folder=place) as running:
        yield running


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, 100)


@pytest.mark.parametrize("words", [(), ("--raw",)])
def test_every_answer_is_kept(folder: Path, peer: Peer, words: tuple[str, ...]) -> None:
    """The cap is honoured (this server ignores `max_completion_tokens`), and the babble is a miss or cut."""
    swept = sweep(folder, peer, "server/tiny", words=words)
    assert swept.statuses == [200] * 4, swept.err
    assert {path for path, _ in swept.asked} == {"/v1/completions" if words else "/v1/chat/completions"}
    assert swept.outcomes.keys() <= {"miss", "cut"}
    for record in swept.records:
        assert record.reply is not None
        assert record.reply.model == "tiny"
        assert record.reply.usage.input is not None
        assert record.tokens * 0.5 < record.reply.usage.input < WINDOW
        assert record.reply.usage.output is not None
        assert record.reply.usage.output <= CAP + 2  # /v1/completions counts up to two too many
        assert record.reply.stop in ("end", "length")


def test_a_prefilled_cue_is_taken_as_history_and_counted(folder: Path, peer: Peer) -> None:
    """This server ignores the switches: the begun answer becomes a whole turn. Nothing fails, and it is told in the records."""
    plain = sweep(folder, peer, "server/tiny", cue="off", out="plain")
    begun = sweep(folder, peer, "server/tiny", cue="prefill", out="begun")
    assert plain.statuses == begun.statuses == [200] * 4, begun.err
    for without, with_cue in zip(_inputs(plain.records), _inputs(begun.records), strict=True):
        assert without < with_cue


def _inputs(records: Sequence[Record]) -> list[int]:
    return sorted(record.reply.usage.input or 0 for record in records if record.reply)


def test_what_passes_the_window_is_an_overflow(folder: Path, peer: Peer) -> None:
    """400 context_length_exceeded, "you requested 6013 tokens": its own outcome, and never asked again."""
    swept = sweep(folder, peer, "server/tiny", lengths=[400, 6000])
    assert swept.outcomes["overflow"] == 4, swept.err
    assert sorted(swept.statuses) == [200] * 4 + [400] * 4
    assert (swept.told["overflow"], swept.told["errors"]) == (4, 0)
    assert sweep(folder, peer, "server/tiny", lengths=[400, 6000]).asked == []


def test_a_wrong_key_costs_one_request(folder: Path, peer: Peer) -> None:
    """401 {"detail": "Invalid API key"}."""
    swept = sweep(folder, peer, "server/tiny", key="sk-wrong-0123456789")
    assert (swept.code, swept.statuses, swept.records) == (4, [401], [])
    assert "NIAH_SERVER_KEY" in swept.err
