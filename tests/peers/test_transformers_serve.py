"""The whole tool against a server that is not ours: `niah` as a command, `transformers serve` behind it, a real tokenizer between.

The model is random and finds nothing. What is tested is everything around it: that prompts arrive whole, that every answer is
kept, and that what is cut is never counted as a miss. What goes wrong: test_transformers_faults.py.
"""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from niah import sentences
from niah.trial import Prompt, Record, outcome
from tests.peers.process import offline
from tests.peers.server import Server
from tests.peers.serving import (
    CAP,
    CORPORA,
    MAKE_CHECKPOINT,
    PYTHON,
    REAL,
    SHARED,
    Sweep,
    checkpoint,
    experiment,
    folder,
    niah,
    peers,
    run_sweep,
    server,
    summary,
)
from tests.peers.tiny_checkpoint import WINDOW, overhead, render

__all__ = ["checkpoint", "folder", "server"]
pytestmark = peers


@pytest.fixture(scope="module")
def encode(checkpoint: Path) -> Any:
    """Text with the template's marks -> token ids, as the checkpoint's own tokenizer.json says."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def sweep(folder: Path, server: Server) -> Sweep:
    """The sweep that most tests look at: three lengths, three depths, every corpus twice."""
    config = experiment(folder / "sweep.toml", lengths=[400, 800, 1600], reshuffles=2 * len(CORPORA))
    return run_sweep(config, folder / "sweep", server)


@pytest.fixture(scope="module")
def measured(folder: Path, server: Server, checkpoint: Path) -> Sweep:
    """A sweep whose lengths are in tokens of the server's own tokenizer, up to the edge of its window."""
    config = experiment(folder / "measured.toml", lengths=[700, 1500, WINDOW - 2 * CAP], reshuffles=len(CORPORA))
    return run_sweep(config, folder / "measured", server, tokenizer=str(checkpoint / "tokenizer.json"))


# What is sent and what arrives


def test_every_trial_of_the_plan_is_asked_and_recorded_once(sweep: Sweep) -> None:
    assert len(sweep.planned) == 3 * 3 * 2 * len(CORPORA)
    assert sorted(record.trial.key for record in sweep.records) == sorted(sweep.planned)
    assert sweep.statuses == [200] * len(sweep.planned)
    assert {record.trial.corpus for record in sweep.records} == {trial.corpus for trial, _ in sweep.planned.values()}
    for record, trial, prompt in sweep.pairs:
        assert record.error is None
        assert record.reply is not None
        assert record.reply.model.startswith("tiny")
        assert record.reply.seconds > 0
        assert record.trial == trial
        assert (record.tokens, record.placements) == (prompt.tokens, prompt.placements)


def test_the_server_counts_the_tokens_of_exactly_the_planned_messages(sweep: Sweep, encode: Any) -> None:
    for record, _, prompt in sweep.pairs:
        assert record.reply is not None
        assert record.reply.usage.input == len(encode(render(prompt.messages())))
        assert record.reply.usage.input <= WINDOW - CAP
        assert record.reply.usage.output is not None
        assert 0 < record.reply.usage.output <= CAP


def test_the_model_reads_the_planned_text_word_for_word(sweep: Sweep, checkpoint: Path) -> None:
    """Without the server the same checkpoint answers the planned messages with the same babble, another for every prompt."""
    chosen = [pair for pair in sweep.pairs if pair[0].reply and pair[0].reply.text.strip()][:: len(sweep.planned) // 8]
    prompts = [{"messages": prompt.messages(), "max_new_tokens": CAP} for _, _, prompt in chosen]
    command = [PYTHON, MAKE_CHECKPOINT, "answer", checkpoint]
    done = subprocess.run(command, input=json.dumps(prompts), env=offline(), check=True, capture_output=True, text=True, timeout=120)
    assert [record.reply and record.reply.text for record, _, _ in chosen] == json.loads(done.stdout)
    assert len({record.reply and record.reply.text for record, _, _ in chosen}) == len(chosen) > 3


def test_niah_prompt_shows_what_is_sent(sweep: Sweep, encode: Any) -> None:
    for corpus, trials in (("builtin/wikipedia", 2), *((path, 1) for path in REAL)):
        name = corpus if corpus.startswith("builtin/") else Path(corpus).name
        for record in [record for record in sweep.records if record.trial.corpus == name][-trials:]:
            check_shown(sweep, record, corpus, encode)


def check_shown(sweep: Sweep, record: Record, corpus: str, encode: Any) -> None:
    trial = record.trial
    options = ["--corpus", corpus, "--lengths", trial.length, "--depths", trial.depths[0], "--reshuffle", trial.reshuffle]
    shown = niah("prompt", sweep.config, *options, "--needle", trial.needles[0], "--format", "json", cwd=sweep.config.parent)
    assert shown.code == 0, shown.err
    told = json.loads(shown.out)
    assert told["messages"] == sweep.planned[trial.key][1].messages()
    assert told["tokens"] == record.tokens
    assert record.reply is not None
    assert len(encode(render(told["messages"]))) == record.reply.usage.input


@pytest.mark.skipif(not REAL, reason=f"no real text here ({SHARED})")
def test_real_text_was_among_it(sweep: Sweep, measured: Sweep) -> None:
    for done in (sweep, measured):
        files = {Path(corpus).name for corpus in REAL}
        assert files <= {Path(record.trial.corpus).name for record in done.records}


def test_lengths_in_the_servers_own_tokens_are_exact(measured: Sweep) -> None:
    """Never above the length, and what the server reports without its chat template is the recorded count."""
    assert len(measured.records) == len(measured.planned) == 3 * 3 * len(CORPORA)
    for record, trial, prompt in measured.pairs:
        assert record.reply is not None
        assert record.reply.usage.input is not None
        assert record.reply.usage.input - overhead(prompt.messages()) == record.tokens
        assert record.tokens <= trial.length
        assert outcome(record) not in ("truncated", "error")


def test_one_more_sentence_would_pass_the_length(measured: Sweep, encode: Any) -> None:
    materials = measured.plan.materials
    needles = materials.needles.by_id()
    moved = 4  # so many tokens may join otherwise when the needle moves with the length
    for record, trial, prompt in measured.pairs:
        needle = needles[trial.needles[0]].text
        text = haystack(prompt, needle)
        longer = haystack(materials.maker.make(replace(trial, length=trial.length + 3000)), needle)
        assert longer.startswith(text)
        following = next(end for end in sentences.ends(longer) if end > len(text))
        assert record.tokens + len(encode(longer[len(text) : following])) + moved > trial.length


def haystack(prompt: Prompt, needle: str) -> str:
    """The context without its needle."""
    assert prompt.context.count(needle) == 1
    before, _, after = prompt.context.partition(needle)
    return before.removesuffix(" ") + after if before else after.removeprefix(" ")


# What is made of the answers


def test_an_answer_cut_at_the_cap_is_no_miss(sweep: Sweep) -> None:
    stops = [record.reply.stop for record in sweep.records if record.reply]
    assert set(stops) == {"end", "length"}
    for record in sweep.records:
        assert record.reply is not None
        assert (record.reply.stop == "length") == (record.reply.usage.output == CAP)
        assert outcome(record) == ("cut" if record.reply.stop == "length" else "miss")
    told = summary(sweep.folder)
    assert (told["trials"], told["cut"]) == (stops.count("end"), stops.count("length"))
    assert (told["errors"], told["refused"], told["truncated"], told["missing"]) == (0, 0, 0, 0)
    assert told["recall"] == 0


def test_the_report_is_drawn(sweep: Sweep) -> None:
    assert (sweep.folder / "heatmap.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert "<svg" in (sweep.folder / "heatmap.svg").read_text(encoding="utf-8")
    assert (sweep.folder / "cells.csv").read_text(encoding="utf-8").count("\n") == 1 + 3 * 3
    assert str(sweep.folder / "heatmap.png") in sweep.ended.out
    assert sweep.ended.err == ""


def test_at_temperature_zero_another_run_gets_the_same_answers(sweep: Sweep, server: Server) -> None:
    again = run_sweep(sweep.config, sweep.folder.with_name("again"), server)

    def answers(done: Sweep) -> dict[str, tuple[Any, ...]]:
        replies = {record.trial.key: record.reply for record in done.records}
        return {key: (reply.text, reply.stop, reply.usage, reply.model) for key, reply in replies.items() if reply}

    assert answers(again) == answers(sweep)
    assert summary(again.folder) == summary(sweep.folder)


def test_a_finished_run_asks_nothing_when_resumed(sweep: Sweep, server: Server) -> None:
    before, lines_before = server.statuses(), (sweep.folder / "trials.jsonl").read_bytes()
    ended = niah("sweep", sweep.config, "--base-url", server.url, "--out", sweep.folder, cwd=sweep.config.parent)
    assert ended.code == 0, ended.err
    assert server.statuses() == before
    assert (sweep.folder / "trials.jsonl").read_bytes() == lines_before
