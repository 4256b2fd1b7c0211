import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from niah.backends import Connection, open_backend
from niah.backends.local import LocalBackend
from niah.engines import EngineError, Generation, Step, checkpoint
from niah.engines.chat import Chat
from niah.errors import BadRequest, ContextOverflow, MissingExtra, OutOfMemory, ProviderError, UsageError
from niah.run.plan import Plan, gather
from niah.run.store import read
from niah.trial import Prompt, Record, Reply, Sampling, outcome
from tests.engines.checkpoints import changed, tiny
from tests.hub_server import Hub
from tests.peers.tiny_checkpoint import answer
from tests.run.command import experiment, here, lines, uncovered, write_config

__all__ = ["tiny"]
CAP = 12
MEASURED = {"prefill_seconds", "decode_seconds", "state_bytes"}


def prompt(context: str = "the river and the house. " * 40, *, cue: Any = "user", **sampling: Any) -> Prompt:
    return Prompt(
        system="Be brief.",
        context=context,
        question="Where?",
        cue="Here is it:",
        cue_mode=cue,
        layout="{context}\n\n{question}",
        tokens=300,
        placements=(),
        sampling=Sampling(**{"max_output_tokens": CAP, **sampling}),
    )


def asked(backend: LocalBackend, *prompts: Prompt) -> list[Reply]:
    async def all_of_them() -> list[Reply]:
        try:
            return list(await asyncio.gather(*map(backend.ask, prompts)))
        finally:
            await backend.close()

    return asyncio.run(all_of_them())


def opened(folder: Path, **connection: Any) -> LocalBackend:
    backend = open_backend(f"hf/{folder}", Connection(**connection))
    assert isinstance(backend, LocalBackend)
    return backend


def test_answers_are_those_of_transformers_in_the_order_of_asking(tiny: Path):
    prompts = [prompt(cue=cue) for cue in ("user", "off", "prefill", "user")]
    replies = asked(opened(tiny), *prompts)
    expected = answer(tiny, [{"messages": each.messages(), "max_new_tokens": CAP} for each in (prompts[0], prompts[1])])
    assert [reply.text for reply in replies[:2]] == expected
    assert replies[3].text == replies[0].text != replies[2].text
    assert all(reply.usage.input and reply.usage.input > 100 and reply.usage.output for reply in replies)
    assert replies[0].usage.cached == 0
    assert all((reply.usage.cached or 0) > 100 for reply in replies[1:])
    assert all(reply.model.startswith("tiny@") and set(reply.measured or ()) == MEASURED for reply in replies)


def test_sampling_is_repeatable(tiny: Path):
    drawn = [
        prompt(temperature=1.5),
        prompt(temperature=1.5),
        prompt(temperature=1.5, top_p=1e-6),
        prompt(),
        prompt("an old house. ", temperature=1.5),
    ]
    texts = [reply.text for reply in asked(opened(tiny), *drawn)]
    assert texts[0] == texts[1] != texts[2] == texts[3]


def test_a_base_models_answer_ends_at_the_cap(tiny: Path):
    replies = asked(opened(tiny, raw=True), *(prompt(f"House {number}. ", max_output_tokens=2) for number in range(4)))
    assert {reply.stop for reply in replies} == {"end"}
    assert 2 in {reply.usage.output for reply in replies}


class Failing:
    """An engine that only says no."""

    window_tokens, stop_ids, device, border_after_context = None, frozenset[int](), "cpu", False

    def __init__(self, kind: Any):
        self._kind = kind

    def generate(self, *_: Any, **__: Any) -> Generation:
        raise EngineError("no.", kind=self._kind)

    def close(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize(
    ("kind", "error"), [("window", ContextOverflow), ("memory", OutOfMemory), ("prompt", BadRequest), ("checkpoint", UsageError)]
)
def test_what_an_engine_says_is_an_error_of_ours(tiny: Path, kind: str, error: type[Exception]):
    backend = opened(tiny)
    backend.ready()
    assert backend._opened is not None
    backend._opened = (*backend._opened[:2], Failing(kind))
    with pytest.raises(error, match=f"model 'hf/{tiny}': no.") as caught:
        asked(backend, prompt())
    assert type(caught.value) is error


def test_out_of_memory_counts_as_overflow_and_is_asked_again(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    config = write_config(
        tmp_path, models=[f"hf/{tiny}"], lengths=[300, 700], depths=[1.0], reshuffles=1, raw=True, sampling={"max_output_tokens": 4}
    )
    with monkeypatch.context() as patched:
        patched.setattr("niah.engines.hf.free_bytes", lambda device: 600_000)
        first = here("sweep", config, "--out", "run")
    assert first.returncode == 3, first.stderr
    assert "are free on cpu" in first.stderr
    kinds = {record.trial.length: (outcome(record), record.error and record.error.kind) for record in read(tmp_path / "run")}
    assert kinds[700] == ("overflow", "out_of_memory")
    assert kinds[300][1] is None
    again = here("sweep", config, "--out", "run")
    assert (again.returncode, len(lines(tmp_path / "run"))) == (0, 3), again.stderr


def test_without_torch_the_extra_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r"torch.*pip install 'niah\[local\]'"):
        opened(tiny).ready()


def test_bundled_is_the_reader_that_came_with_niah(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint, "_READERS", tmp_path)
    with pytest.raises(UsageError, match="model 'hf/bundled': this installation has no bundled reader"):
        open_backend("hf/bundled").ready()
    changed(tiny, tmp_path / "full")
    backend = open_backend("hf/bundled")
    assert isinstance(backend, LocalBackend)
    assert asked(backend, prompt())[0].model.startswith("full@")


@pytest.mark.parametrize("change", [{"without": ["config.json"]}, {"files": {"model.safetensors": b"no"}}], ids=["config", "weights"])
def test_a_bad_checkpoint_ends_a_sweep_with_a_line(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Mapping[str, Any]):
    monkeypatch.chdir(tmp_path)
    folder = changed(tiny, tmp_path / "bad", **change)
    done = here("sweep", write_config(tmp_path, models=[f"hf/{folder}"]), "--out", "run")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: model 'hf/{folder}': ")
    assert "Traceback" not in done.stderr
    assert lines(tmp_path / "run") == []


@pytest.fixture(scope="module")
def swept(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two local models, one of which has a small window, in a folder of its own."""
    folder = tmp_path_factory.mktemp("sweep")
    small = changed(tiny, folder / "small", without=["chat_template.jinja"], max_position_embeddings=900)
    config = write_config(
        folder, models=[f"hf/{tiny}", f"hf/{small}"], cue="user", reshuffles=2, sampling={"max_output_tokens": CAP}, concurrency=3
    )
    before = Path.cwd()
    os.chdir(folder)
    try:
        done = here("sweep", config, "--out", "run")
    finally:
        os.chdir(before)
    assert done.returncode == 0, done.stderr
    assert f"hf/{small}: no chat template" in done.stdout
    assert done.stdout.count("no chat template") == 1
    return folder


def records(swept: Path, name: str) -> list[Record]:
    return [record for record in read(swept / "run") if record.model.endswith(name)]


def test_a_sweep_asks_what_transformers_would_answer(tiny: Path, swept: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(swept)
    made = experiment(swept / "small.toml")
    maker, found = Plan(made, gather(made)).materials.maker, records(swept, "/tiny")
    assert len(found) == 12
    asked_for = [{"messages": maker.make(each.trial).messages(), "max_new_tokens": CAP} for each in found]
    assert [each.reply.text for each in found[:6] if each.reply] == answer(tiny, asked_for[:6])
    chat, before = Chat(tiny), list[int]()
    for each, sent in zip(found, asked_for, strict=True):
        assert each.reply
        ids = [id_ for piece in chat.ids(sent["messages"]) for id_ in piece]
        shared = next((i for i, (one, other) in enumerate(zip(ids, before, strict=False)) if one != other), 0)
        assert (each.reply.usage.input, each.reply.usage.cached) == (len(ids), shared)
        before = ids


def test_trials_of_a_reshuffle_come_with_the_deepest_needle_first(swept: Path):
    found = records(swept, "/tiny")
    order = [(each.trial.reshuffle, -each.trial.length * each.trial.depths[0]) for each in found]
    assert order == sorted(order)


def test_a_prompt_beyond_the_window_is_an_overflow(swept: Path):
    found = records(swept, "/small")
    assert {(each.trial.length, outcome(each) == "overflow") for each in found} == {(300, False), (500, True)}
    assert all("its window is 900" in each.error.message for each in found if each.error)


def test_a_finished_sweep_asks_nothing_again(swept: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(swept)
    before = (swept / "run" / "trials.jsonl").read_bytes()
    assert here("sweep", "small.toml", "--out", "run").returncode == 0
    assert (swept / "run" / "trials.jsonl").read_bytes() == before


def test_plan_and_prompt_read_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path, models=["hf/not/there/at/all"])
    done = here("plan", "small.toml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "a local reader" in done.stdout


def test_the_model_check_tells_of_a_local_model(tiny: Path):
    done = here("check", f"hf/{tiny}")
    assert done.returncode == 0, done.stderr
    assert "tiny@" in done.stdout
    assert "4,096 tokens" in done.stdout
    assert "the longest prompt, 16,000 tokens, is above the window" in done.stdout


def test_a_second_interrupt_leaves_the_prompt_in_work(tiny: Path, tmp_path: Path):
    settings = json.loads((tiny / "tokenizer_config.json").read_text()) | {"eos_token": None}
    files: dict[str, str | bytes] = {"generation_config.json": "{}", "tokenizer_config.json": json.dumps(settings)}
    endless = changed(tiny, tmp_path / "endless", without=["chat_template.jinja"], files=files, max_position_embeddings=200_000)
    write_config(tmp_path, models=[f"hf/{endless}"], lengths=[300], sampling={"max_output_tokens": 150_000})
    command = [sys.executable, "-u", "-m", "niah", "sweep", "small.toml", "--out", "run"]
    own = {**uncovered(), "CI": "1", "NIAH_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(command, cwd=tmp_path, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    heard = iter(process.stdout.readline, "")
    assert any("9 trials" in line for line in heard)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert any("waiting for the answers in flight" in line for line in heard)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert (process.returncode, err) == (130, "")
    assert "9 trials are left" in out


def test_a_model_of_the_hub_is_swept(tiny: Path, tmp_path: Path):
    config = write_config(
        tmp_path, models=["hf/org/tiny"], lengths=[300], depths=[0.5], reshuffles=1, raw=True, sampling={"max_output_tokens": 4}
    )
    with Hub() as hub:
        hub.add("org/tiny", {path.name: path.read_bytes() for path in tiny.iterdir()})
        own = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "NO_PROXY": "127.0.0.1",
            "NIAH_CACHE": str(tmp_path / "cache"),
            "CI": "1",
        }
        done = subprocess.run(
            [sys.executable, "-m", "niah", "sweep", str(config), "--out", "run"],
            cwd=tmp_path, env={**uncovered(), **own}, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        [record] = list(read(tmp_path / "run"))
        assert record.reply
        assert record.reply.model == f"org/tiny@{hub.repos['org/tiny'].sha[:8]}"


def test_status_tells_how_far_and_how_fast(tiny: Path):
    backend = opened(tiny)
    assert backend.status() == ""
    one, other = Event(), Event()
    backend._steps[one] = Step(phase="prefill", tokens=2048, total=10_000, seconds=2.0)
    assert backend.status() == "reading 2,048/10,000, 1,024 tokens/s"
    backend._steps[other] = Step(phase="prefill", tokens=1000, total=3000, seconds=2.0)
    assert backend.status() == "reading 2 prompts, 3,048/13,000, 1,524 tokens/s"
    backend._steps[one] = Step(phase="decode", tokens=30, total=2048, seconds=1.5)
    assert backend.status() == "reading 1 prompt, 1,000/3,000, 500 tokens/s; answering 1 prompt, 30, 20 tokens/s"
    del backend._steps[other]
    assert backend.status() == "answering 30, 20 tokens/s"


def test_records_of_old_have_no_measures(swept: Path):
    line: dict[str, Any] = lines(swept / "run")[0]
    assert json.loads(json.dumps(Record.from_json(line).to_json())) == line
    del line["reply"]["measured"]
    old = Record.from_json(line)
    assert old.reply
    assert old.reply.measured is None
    assert json.loads(json.dumps(old.to_json())) == line


def test_provider_errors_are_told_with_the_models_name(tiny: Path):
    with pytest.raises(ProviderError, match=f"model 'hf/{tiny}': the prompt has"):
        asked(opened(tiny), prompt("the river and the house. " * 2000))
