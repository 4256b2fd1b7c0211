"""The engine answers as the model does that reads a prompt at once, however it is cut, reused or stored."""

from __future__ import annotations

import random
import resource
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from niah.backends import open_backend
from niah.backends.local import LocalBackend
from niah.engines import BORDER, EngineError, Sampling, Step
from niah.engines.infini.engine import InfiniEngine, open_engine
from niah.engines.infini.model import InfiniModel
from niah.errors import UsageError
from tests.backends.test_local import asked, prompt
from tests.engines.infini.asking import END, GREEDY, SEGMENT, ask, engines, expected, folders, ids, one_thread

__all__ = ["engines", "folders", "one_thread"]


@settings(max_examples=25, deadline=None)
@given(
    border=st.booleans(), context=st.integers(0, 150), question=st.integers(1, 40), cuts=st.lists(st.integers(0, 150), max_size=3),
    chunk=st.sampled_from([1, SEGMENT, 5 * SEGMENT]),
)  # fmt: skip
def test_any_length_in_any_pieces(  # noqa: PLR0917
    folders: Any, border: bool, context: int, question: int, cuts: list[int], chunk: int
):
    first, behind = ids(context), ids(question, 1)
    edges = sorted(min(cut, context) for cut in cuts)
    pieces = [first[start:stop] for start, stop in zip([0, *edges], [*edges, context], strict=True)]
    engine = InfiniEngine(folders[border], device="cpu", chunk_tokens=chunk)
    answer = ask(engine, *pieces, BORDER, behind)
    assert list(answer.ids) == expected(folders[border], first, behind)
    assert (answer.prompt_tokens, answer.stop, answer.reused_tokens) == (context + question, "length", 0)


def test_answers_depend_on_the_text_and_the_border(engines: dict[bool, InfiniEngine]):
    answers = {ask(engine, ids(100, seed), BORDER, ids(9, 1)).ids for engine in engines.values() for seed in range(5)}
    assert len(answers) > 5
    assert ask(engines[True], ids(100), BORDER, ids(9, 1)).ids != ask(engines[True], ids(100), ids(9, 1)).ids
    assert ask(engines[False], ids(100), BORDER, ids(9, 1)).ids == ask(engines[False], ids(100), ids(9, 1)).ids


@pytest.mark.parametrize("border", [True, False])
def test_what_two_prompts_begin_with_alike_is_read_once(folders: dict[bool, Path], border: bool):
    engine = InfiniEngine(folders[border], device="cpu", chunk_tokens=SEGMENT)
    base, draw = ids(400), random.Random(3)
    before: list[int] = []
    for number in range(8):
        context = [*base[: draw.randrange(0, 400)], 5, *ids(draw.randrange(60), number)]
        question = ids(7, number)
        told: list[Step] = []
        answer = ask(engine, context, BORDER, question, report=told.append)
        assert list(answer.ids) == expected(folders[border], context, question)
        whole = [*context, *question]
        same = next((i for i, (a, b) in enumerate(zip(whole, before, strict=False)) if a != b), min(len(whole), len(before)))
        usable = min(same, len(context) if border else len(whole) - 1)
        assert usable - SEGMENT < answer.reused_tokens <= usable and answer.reused_tokens % SEGMENT == 0
        read = [step for step in told if step.phase == "prefill"]
        assert read[-1].tokens == read[-1].total == len(whole) - answer.reused_tokens
        before = whole


def test_with_room_for_few_states_answers_stay_the_same(folders: dict[bool, Path]):
    small, none = (InfiniEngine(folders[True], device="cpu", chunk_tokens=SEGMENT, snapshot_bytes=size) for size in (60_000, 0))
    base = ids(600)
    reused: list[int] = []
    for end in (560, 400, 230, 90, 300):
        parts = [*base[:end], 5, *ids(20, end)], BORDER, ids(5, 2)
        answers = [ask(engine, *parts) for engine in (small, none)]
        assert answers[0].ids == answers[1].ids
        assert answers[1].reused_tokens == 0
        reused.append(answers[0].reused_tokens)
    assert all(reused[1:4]) and sum(reused) < 560 + 400 + 230


def test_a_prompt_that_was_broken_off_is_gone_on_with(folders: dict[bool, Path]):
    engine = InfiniEngine(folders[True], device="cpu", chunk_tokens=SEGMENT)
    steps: list[Step] = []

    def leave(step: Step) -> None:
        steps.append(step)
        if len(steps) == 10:
            raise KeyboardInterrupt

    parts = ids(400), BORDER, ids(9, 1)
    with pytest.raises(KeyboardInterrupt):
        ask(engine, *parts, report=leave)
    again = ask(engine, *parts)
    assert again.reused_tokens == 10 * SEGMENT
    assert list(again.ids) == expected(folders[True], parts[0], parts[2])


def test_what_is_held_of_a_text_is_of_constant_size_and_told(engines: dict[bool, InfiniEngine]):
    for engine in engines.values():
        sizes = {ask(engine, ids(tokens), BORDER, ids(9, 1)).measured["state_bytes"] for tokens in (3 * SEGMENT, 60 * SEGMENT)}
        assert len(sizes) == 1
        # Of each layer's two heads with 32 or 16 features of 16 values, in 32 bits, the matrix and its normaliser at least.
        assert sizes.pop() >= 2 * (32 + 16) * (16 + 1) * 4


def test_an_end_token_ends_the_answer(engines: dict[bool, InfiniEngine]):
    whole = ask(engines[True], ids(80), BORDER, ids(9))
    stop = whole.ids[3]
    ended = ask(engines[True], ids(80), BORDER, ids(9), stop_ids=[stop])
    assert (ended.ids, ended.stop) == (whole.ids[: whole.ids.index(stop)], "end")
    assert engines[True].stop_ids == {END}
    assert engines[True].window_tokens is None


def test_temperature_draws_by_its_seed(engines: dict[bool, InfiniEngine]):
    def drawn(seed: int) -> tuple[int, ...]:
        hot = Sampling(temperature=2.0, seed=seed)
        return engines[True].generate([ids(50)], 8, stop_ids=(), sampling=hot, report=lambda _: None).ids

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize("border", [True, False])
def test_without_memory_nothing_of_the_earlier_text_is_left(folders: dict[bool, Path], border: bool):
    off, on = open_engine(folders[border], "memory-off"), open_engine(folders[border])
    question = ids(9, 1)
    last = [] if border else ids(SEGMENT - 1, 4)
    answers = [[ask(engine, ids(6 * SEGMENT, seed), last, BORDER, question).ids for seed in range(4)] for engine in (off, on)]
    if border:
        assert {*answers[0]} == {tuple(expected(folders[border], [], question))}
    assert len({*answers[1]}) > 1
    assert answers[0] != answers[1]
    # Asked again with what is kept: what was emptied for one answer is not lost for the next.
    assert ask(on, ids(6 * SEGMENT, 0), last, BORDER, question).ids == answers[1][0]


def test_memory_does_not_grow_with_the_prompt(folders: dict[bool, Path]):
    """Keys and values of all tokens would take 150 MB; what grows is their ids, four bytes each, and what the allocator does not give back."""
    engine = InfiniEngine(folders[True], device="cpu", chunk_tokens=8192, snapshot_bytes=500_000)

    def peak(tokens: int) -> int:
        pieces = ([7 + number % 1000] * 1000 for number in range(tokens // 1000))
        ask(engine, *[ids(100)], count=1)
        engine.generate(chain(pieces, [BORDER, ids(9)]), 1, stop_ids=(), sampling=GREEDY, report=lambda _: None)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    assert -peak(20_000) + peak(300_000) < 40_000_000


def test_a_prompt_that_is_empty_or_of_another_tokenizer(engines: dict[bool, InfiniEngine]):
    with pytest.raises(EngineError, match="empty") as caught:
        ask(engines[True], [], BORDER, [])
    assert caught.value.kind == "prompt"
    with pytest.raises(EngineError, match=r"its tokenizer does not fit: it made the id 8,192, the weights know 8,192") as caught:
        ask(engines[True], [8192])
    assert caught.value.kind == "checkpoint"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError("no")])
def test_out_of_memory_is_said_and_the_next_prompt_is_answered(
    folders: dict[bool, Path], monkeypatch: pytest.MonkeyPatch, error: Exception
):
    engine = InfiniEngine(folders[True], device="cpu")
    before = ask(engine, ids(90), BORDER, ids(5))

    def fail(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(InfiniModel, "absorb", fail)
        with pytest.raises(EngineError, match="out of memory on cpu") as caught:
            ask(engine, ids(90, 2), BORDER, ids(5))
    assert caught.value.kind == "memory"
    assert ask(engine, ids(90), BORDER, ids(5)).ids == before.ids


def test_closed_it_reads_its_weights_again(folders: dict[bool, Path]):
    engine = InfiniEngine(folders[True], device="cpu")
    before = ask(engine, ids(90))
    engine.close()
    assert engine._model is None
    after = ask(engine, ids(90))
    assert (after.ids, after.reused_tokens) == (before.ids, 0)


# --- as a model of niah


@pytest.mark.parametrize("cue", ["off", "user", "prefill"])
@pytest.mark.parametrize("layout", ["{context}\n\n{question}", "{question}\n\n{context}"])
def test_the_border_stands_behind_the_context(folders: dict[bool, Path], cue: str, layout: str):
    backend = opened(f"infini/{folders[True]}")
    each = replace(prompt("The river and the house. " * 9, cue=cue), layout=layout)
    backend.ready()
    assert backend._opened is not None
    seen: list[list[Sequence[int]]] = []
    engine = backend._opened[2]
    generate = engine.generate
    engine.generate = lambda pieces, *rest, **more: generate(seen.append(list(pieces)) or seen[-1], *rest, **more)  # type: ignore[method-assign]
    [reply] = asked(backend, each)
    pieces = seen[0]
    at = next(number for number, piece in enumerate(pieces) if piece is BORDER)
    chat = backend._opened[1]
    assert chat._tokenizer.decode(list(chain(*pieces[:at]))).endswith("The river and the house. ")
    assert "house" not in chat._tokenizer.decode(list(chain(*pieces[at:])))
    assert reply.usage.input == sum(map(len, pieces))
    assert reply.model.startswith("True@")


def opened(model: str) -> LocalBackend:
    backend = open_backend(model)
    assert isinstance(backend, LocalBackend)
    return backend


def test_a_prompt_without_a_context(folders: dict[bool, Path]):
    [reply] = asked(opened(f"infini/{folders[True]}"), prompt(""))
    assert reply.usage.input and reply.usage.input < 40


def test_the_option_stands_in_the_name(folders: dict[bool, Path]):
    each = prompt()
    plain, off = (asked(opened(f"infini/{folders[True]}{option}"), each)[0] for option in ("", "#memory-off"))
    assert off.model == f"{plain.model}#memory-off"
    assert off.text != plain.text
    with pytest.raises(UsageError, match="unknown option 'memory-of'; did you mean 'memory-off'"):
        opened(f"infini/{folders[True]}#memory-of").ready()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(folders: dict[bool, Path]):
    engine = InfiniEngine(folders[True])
    assert engine.device == "cuda"
    assert list(ask(engine, ids(100), BORDER, ids(9)).ids) == expected(folders[True], ids(100), ids(9))
