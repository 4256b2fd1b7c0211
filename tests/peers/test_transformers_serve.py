"""The whole tool against a server that is not ours: `niah` as a command, `transformers serve` behind it, a real tokenizer between.

The model is random and finds nothing. What is tested is everything around it: that prompts arrive whole, that every answer is
kept, and that whatever goes wrong is named and never counted as a miss.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from niah import sentences
from niah.config import load_experiment
from niah.run.plan import Plan, gather
from niah.run.store import read
from niah.trial import Cue, Prompt, Record, Trial, outcome
from tests.peers.process import offline
from tests.peers.server import Server
from tests.peers.tiny_checkpoint import WINDOW, overhead, render

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
PYTHON = Path(os.environ.get("NIAH_PEERS_PYTHON") or ROOT / ".venv-peers" / "bin" / "python")
ABSENT = f"no peers' environment: `make peers` makes it, or NIAH_PEERS_PYTHON names its python ({PYTHON} is not there)"
MAKE_CHECKPOINT = Path(__file__).with_name("tiny_checkpoint.py")

pytestmark = [pytest.mark.peers, pytest.mark.skipif(not PYTHON.is_file(), reason=ABSENT)]

CAP = 12
IN_FLIGHT = 8
CUE: Cue = "user"
REAL = [str(SHARED / f"{name}.parquet") for name in ("medical", "wikipedia") if (SHARED / f"{name}.parquet").is_file()]
CORPORA = ["builtin/wikipedia", "builtin/legal", *REAL]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A finished sweep: what was planned, what is on the disk, and the requests that the server logged for it."""

    config: Path
    folder: Path
    ended: Ended
    plan: Plan
    planned: Mapping[str, tuple[Trial, Prompt]]
    records: list[Record]
    statuses: list[int]

    @property
    def pairs(self) -> Iterator[tuple[Record, Trial, Prompt]]:
        for record in self.records:
            yield record, *self.planned[record.trial.key]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("peers")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    path = folder / "tiny"
    subprocess.run([PYTHON, MAKE_CHECKPOINT, "make", path], env=offline(), check=True, capture_output=True, timeout=120)
    return path


@pytest.fixture(scope="module")
def server(folder: Path, checkpoint: Path) -> Iterator[Server]:
    with Server(PYTHON, checkpoint, folder / "server.log") as running:
        yield running


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


def experiment(path: Path, *, lengths: list[int], reshuffles: int, depths: tuple[float, ...] = (0, 0.5, 1)) -> Path:
    """Write a config. JSON's lists, strings and numbers are TOML's."""
    fields = {
        "models": ["server/tiny"],
        "corpora": CORPORA,
        "lengths": lengths,
        "depths": depths,
        "reshuffles": reshuffles,
        "cue": CUE,
        "concurrency": IN_FLIGHT,
    }
    top = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
    path.write_text("\n".join([*top, "[sampling]", f"max_output_tokens = {CAP}", "temperature = 0", ""]), encoding="utf-8")
    return path


def niah(*arguments: object, cwd: Path) -> Ended:
    """Run the command line as a user does."""
    with start(*arguments, cwd=cwd) as process:
        out, err = process.communicate(timeout=200)
    return Ended(code=process.returncode, out=out, err=err)


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "NIAH_SERVER_KEY"}
    environment |= {"NIAH_CACHE": str(cwd / "cache"), "NO_PROXY": "127.0.0.1", "COLUMNS": "120", "OMP_NUM_THREADS": "1", "CI": "1"}
    command = [sys.executable, "-m", "niah", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_sweep(config: Path, out: Path, server: Server, **options: str) -> Sweep:
    before = len(server.statuses())
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    ended = niah("sweep", config, *given, "--base-url", server.url, "--out", out, cwd=config.parent)
    assert ended.code == 0, f"{ended.out}\n{ended.err}\n{server.tail()}"
    planned = open_plan(config, **options)
    return Sweep(
        config=config,
        folder=out,
        ended=ended,
        plan=planned,
        planned={trial.key: (trial, planned.materials.maker.make(trial)) for trial in planned.trials((CUE,))},
        records=list(read(out)),
        statuses=server.statuses()[before:],
    )


def open_plan(config: Path, **options: str) -> Plan:
    """The plan of an experiment, made here and not by the command."""
    loaded = load_experiment(str(config), options)
    return Plan(loaded, gather(loaded))


def summary(out: Path, model: str = "server/tiny") -> dict[str, Any]:
    return json.loads((out / "summary.json").read_text(encoding="utf-8"))[model]


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


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


# What goes wrong


@pytest.fixture
def small(folder: Path, request: pytest.FixtureRequest) -> Path:
    """The config of four trials."""
    return experiment(folder / f"{request.node.name}.toml", lengths=[400], depths=(0, 1), reshuffles=2)


def test_a_wrong_model_name_stops_the_run_and_keeps_what_others_answered(small: Path, server: Server) -> None:
    out = small.with_suffix("")
    models = ["--model", "server/tiny", "--model", "server/tinny"]
    ended = niah("sweep", small, *models, "--base-url", server.url, "--out", out, cwd=small.parent)
    assert ended.code == 4
    assert 1 <= len(lines(ended.err)) <= 2
    assert "tinny" in ended.err
    assert "Traceback" not in ended.out + ended.err
    answered = [record for record in read(out) if record.reply]
    assert [record.model for record in answered] == ["server/tiny"] * 4
    assert summary(out)["trials"] + summary(out)["cut"] == 4
    assert not [record for record in read(out) if record.model == "server/tinny" and record.scores]


def test_a_wrong_model_name_costs_one_request(small: Path, server: Server) -> None:
    """niah/run/runner.py promises it: what is wrong with the model's name costs one request."""
    before = len(server.statuses())
    ended = niah("sweep", small, "--model", "server/tinny", "--base-url", server.url, "--out", small.with_suffix(""), cwd=small.parent)
    assert ended.code == 4
    assert server.statuses()[before:] == [400], ended.err


def test_an_address_without_v1_is_named(small: Path, server: Server) -> None:
    out, address = small.with_suffix(""), server.url.removesuffix("/v1")
    ended = niah("sweep", small, "--base-url", address, "--out", out, cwd=small.parent)
    assert ended.code == 4
    assert 1 <= len(lines(ended.err)) <= 2
    assert "--base-url" in ended.err
    assert "/v1" in ended.err
    assert not list(read(out))


def test_a_prefilled_cue_that_the_server_refuses_is_an_error_and_no_miss(small: Path, server: Server) -> None:
    out, before = small.with_suffix(""), len(server.statuses())
    ended = niah("sweep", small, "--cue", "prefill", "--base-url", server.url, "--out", out, cwd=small.parent)
    assert ended.code == 4
    assert 1 <= len(lines(ended.err)) <= 2
    assert "continue_final_message" in ended.err
    assert set(server.statuses()[before:]) == {422}
    assert len(server.statuses()) - before <= 3
    records = list(read(out))
    assert all(record.reply is None and not record.scores for record in records)
    assert {record.error and record.error.kind for record in records} <= {"bad_request"}
    assert (summary(out)["trials"], summary(out)["recall"]) == (0, None)


def test_a_refused_prefill_says_what_to_do(small: Path, server: Server) -> None:
    ended = niah("sweep", small, "--cue", "prefill", "--base-url", server.url, "--out", small.with_suffix(""), cwd=small.parent)
    assert ended.code == 4
    assert "--cue" in ended.err, ended.err


def test_a_server_that_dies_in_the_middle_loses_nothing(folder: Path, server: Server) -> None:
    config = experiment(folder / "killed.toml", lengths=[400, 800, 1600], reshuffles=12)
    out, planned = folder / "killed", 3 * 3 * 12
    command = ("sweep", config, "--base-url", server.url, "--out", out)
    before = len(server.statuses())

    with start(*command, cwd=folder) as process:
        wait_for_lines(out / "trials.jsonl", 20, process)
        server.kill()
        told, complaint = process.communicate(timeout=200)
    asked = server.statuses()[before:]
    answered = {record.trial.key for record in read(out) if record.reply}
    assert process.returncode == 4, f"{told}\n{complaint}"
    assert 1 <= len(lines(complaint)) <= 2
    assert server.url in complaint
    assert "--out" in told, "the line that resumes"
    assert 20 <= len(answered) <= len(asked) <= len(answered) + IN_FLIGHT < planned
    assert not [record for record in read(out) if record.error and record.scores]
    assert summary(out)["trials"] + summary(out)["cut"] == len(answered)

    server.start()
    ended = niah(*command, cwd=folder)
    assert ended.code == 0, ended.err
    assert server.statuses()[before + len(asked) :] == [200] * (planned - len(answered))
    replies = [record.trial.key for record in read(out) if record.reply]
    assert sorted(replies) == sorted(trial.key for trial in open_plan(config).trials((CUE,)))
    told_after = summary(out)
    assert (told_after["trials"] + told_after["cut"], told_after["errors"], told_after["missing"]) == (planned, 0, 0)


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, "the sweep ended before the server was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
