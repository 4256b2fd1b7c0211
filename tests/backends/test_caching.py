"""How the user's message is cut, so that trials share a provider's prompt cache."""

import itertools
import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from niah.backends import bedrock
from niah.backends.caching import BORDER_CHARACTERS, LOOK_BACK, MARKS, borders, pieces
from niah.backends.models import Capabilities, Prices
from niah.trial import Cue, Prompt
from tests.backends.wires import ANY, CLAUDE, asked, counting, prompt

WORDS = ("word ", "sentence ", "x. ", "\n\n", "longer-word ")


def text_of(characters: int, seed: int = 1) -> str:
    rng = random.Random(seed)
    line = "".join(rng.choice(WORDS) for _ in range(4000))
    numbered = (f"{number} {line}" for number in range(characters // len(line) + 1))
    return "".join(numbered)[:characters]


LONG = text_of(4_400_000)


def long_prompt(length: int, shared: int, needle: str = "The tower was finished in 1687.", **changes: Any) -> Prompt:
    return replace(prompt(context=f"{LONG[:shared]} {needle}{LONG[shared:length]}", shared=shared), **changes)


def test_a_message_is_cut_in_front_of_the_needle() -> None:
    """Blocks end in front of a blank near each multiple of 16,384; a mark stands behind the last shared block."""
    asking = long_prompt(100_000, 60_000)
    body = asked("anthropic", asking, cache_min_tokens=1024)
    (message,) = body["messages"]
    blocks = message["content"]
    assert "".join(block["text"] for block in blocks) == asking.messages()[1]["content"]
    assert [set(block) for block in blocks] == [{"type", "text", "cache_control"}] * 3 + [{"type", "text"}]
    assert all(block["cache_control"] == {"type": "ephemeral"} for block in blocks[:3])
    ends = [sum(len(block["text"]) for block in blocks[: number + 1]) for number in range(3)]
    assert all(0 <= end - BORDER_CHARACTERS * number < 64 for number, end in enumerate(ends, start=1))
    assert all(block["text"][0].isspace() for block in blocks[1:])
    assert "1687" in blocks[-1]["text"]
    assert body["system"] == "Answer briefly."


def test_bedrocks_marks_are_blocks_of_their_own() -> None:
    """Converse: a cache point behind a piece; InvokeModel: as Anthropic. Counting needs no marks."""
    asking = long_prompt(50_000, 20_000)
    content = asked("converse", asking, CLAUDE)["messages"][0]["content"]
    assert [list(block) for block in content] == [["text"], ["cachePoint"], ["text"]]
    assert content[1] == {"cachePoint": {"type": "default"}}
    assert content[0]["text"] + content[2]["text"] == asking.messages()[1]["content"]
    invoked = asked("invoke", asking)["messages"]
    assert invoked == asked("anthropic", asking)["messages"]
    assert "cache_control" in invoked[0]["content"][0]
    assert "cachePoint" not in json.dumps(counting(bedrock.CONVERSE).request(asking, CLAUDE, ANY))


@pytest.mark.parametrize(
    ("model", "facts", "cut"),
    [
        (CLAUDE, {}, True),
        (CLAUDE, {"prices": Prices(input=1, output=5, cache_read=0.1)}, True),
        (CLAUDE, {"prices": Prices(input=1, output=5)}, False),
        (CLAUDE, {"prices": Prices(input=1, output=5), "cache_min_tokens": 1024}, True),
        ("meta.llama4-scout-17b-instruct-v1:0", {}, False),
        ("amazon.nova-pro-v1:0", {"cache_min_tokens": 1024}, False),
    ],
)
def test_models_that_refuse_cache_points_get_none(model: str, facts: dict[str, Any], cut: bool) -> None:
    content = asked("converse", long_prompt(50_000, 20_000), model, **facts)["messages"][0]["content"]
    assert (len(content) > 1) is cut


@pytest.mark.parametrize(
    "asking",
    [
        long_prompt(100_000, 0),  # haystack = "independent", or a needle at depth 0
        long_prompt(100_000, BORDER_CHARACTERS - 1),
        long_prompt(100_000, 60_000, layout="{question}\n\n{context}"),
        long_prompt(10_000, 9_000, shared_characters=10**9),
    ],
)
def test_where_nothing_can_be_shared_the_message_stays_whole(asking: Prompt) -> None:
    assert pieces(asking, ANY) == [(asking.messages()[1]["content"], False)]
    assert isinstance(asked("anthropic", asking)["messages"][0]["content"], str)


def test_short_beginnings_get_no_mark() -> None:
    """Three characters a token; a model whose minimum is not known is taken to need 4,096 tokens."""
    asking = long_prompt(100_000, 60_000)

    def marks(minimum: int | None) -> list[bool]:
        return [marked for _, marked in pieces(asking, Capabilities(model="x", cache_min_tokens=minimum))]

    assert marks(None) == marks(0) == marks(4096) == [True, True, True, False]
    assert marks(6000) == [False, True, True, False]
    assert marks(12_000) == [False, False, True, False]
    assert marks(20_000) == [False]


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(0, 4_300_000),
    shared=st.integers(0, 4_400_000),
    start=st.integers(0, 90_000),
    cue=st.sampled_from(["off", "user", "prefill"]),
    minimum=st.none() | st.integers(0, 50_000),
    layout=st.sampled_from(["{context}\n\n{question}", "Documents:\n\n{context}\n\n{question}", "{question}\n\n{context}", "{context}"]),
)
@example(length=4_300_000, shared=4_300_000, start=0, cue="off", minimum=0, layout="{context}")
def test_a_cut_message_is_the_message(*, length: int, shared: int, start: int, cue: Cue, minimum: int | None, layout: str) -> None:
    """For any length, depth, text and template: joined it is the message; at most four marks, in the shared text; no block is blank."""
    asking = replace(prompt(cue, context=LONG[start : start + length], shared=shared), layout=layout)
    cut = pieces(asking, Capabilities(model="x", cache_min_tokens=minimum))
    assert "".join(piece for piece, _ in cut) == asking.messages()[1]["content"]
    marks = [number for number, (_, marked) in enumerate(cut) if marked]
    assert len(marks) <= MARKS
    assert len(cut) <= 84
    if len(cut) > 1:
        before = len(layout.partition("{context}")[0])
        assert all(piece.strip() for piece, _ in cut)
        assert marks[-1] == len(cut) - 2
        assert sum(len(piece) for piece, _ in cut[:-1]) - before < min(shared, length)
        assert all(after - ahead <= LOOK_BACK for ahead, after in itertools.pairwise(marks))


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(alphabet="ab \n\u3000界", max_size=300),
    repeat=st.integers(1, 700),
    shared=st.lists(st.integers(0, 200_000), min_size=2, max_size=2),
)
@example(text="a", repeat=700, shared=[16_400, 40_000])
@example(text=" ", repeat=60_000, shared=[16_400, 60_000])
@example(text="a" * 299 + " ", repeat=300, shared=[16_384, 16_385])
def test_two_trials_are_cut_alike_where_they_share_their_text(text: str, repeat: int, shared: list[int]) -> None:
    """The trial with less shared text has the first borders of the other, whatever the text is and whatever follows it."""
    less, more = sorted(shared)
    stream = text * repeat
    shallow, deep = stream[:less] + " needle " + stream[less:], stream[:more] + "needle"
    first, second = borders(shallow, less), borders(deep, more)
    assert first == second[: len(first)]
    assert len(second) <= len(first) or second[len(first)] + 64 >= less


def test_a_mean_text_is_cut_between_its_characters() -> None:
    """A text without blanks is cut at the multiples themselves; a blank one is not cut at all."""
    assert borders("界" * 50_000, 50_000) == [16_384, 32_768, 49_152]
    assert borders(" " * 50_000, 50_000) == []
    assert pieces(replace(prompt(context=" " * 50_000, shared=50_000), layout="{context}"), ANY) == [(" " * 50_000, False)]


def share_read(cells: list[tuple[int, int]], look_back: int) -> float:
    """Of the characters that trials share with others: how many come out of a cache that keeps what is marked and looks back so far.

    The model of Anthropic's cache: entries are written at marks; a request reads the longest entry that ends at a mark of its
    own or in one of the blocks in front of it, `look_back` blocks in all.
    """
    kept: set[int] = set()
    read = 0
    for number, (length, shared) in enumerate(cells):
        cut = pieces(long_prompt(length, shared, f"Needle {number}."), Capabilities(model="x", cache_min_tokens=1024))
        beginnings: list[tuple[int, int]] = []
        for piece, _ in cut:
            before, size = beginnings[-1] if beginnings else (0, 0)
            beginnings.append((hash((before, piece)), size + len(piece)))
        marks = [block for block, (_, marked) in enumerate(cut) if marked]
        seen = {block for mark in marks for block in range(max(0, mark - look_back + 1), mark + 1)}
        read += max((beginnings[block][1] for block in seen if beginnings[block][0] in kept), default=0)
        kept |= {beginnings[mark][0] for mark in marks}
    return read / sum(shared for _, shared in cells)


ONE_LENGTH = [(length, length * depth // 10) for length in (570_000,) for depth in range(11)]
LENGTHS = [
    (length, length * depth // 10) for length in (34_000, 68_000, 140_000, 280_000, 560_000, 1_100_000, 2_200_000) for depth in range(11)
]


@pytest.mark.parametrize("look_back", [20, 18])
def test_what_a_sweep_reads_from_the_cache(look_back: int) -> None:
    """Shallow to deep reads most of what is shared, deep to shallow more than half; also where a mark counts as a block."""

    def shallow_first(cells: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return sorted(cells, key=lambda cell: cell[1])

    assert share_read(shallow_first(ONE_LENGTH), look_back) > 0.78
    assert share_read(shallow_first(LENGTHS), look_back) > 0.87
    assert share_read(shallow_first(ONE_LENGTH)[::-1], look_back) > 0.68
    assert share_read(shallow_first(LENGTHS)[::-1], look_back) > 0.73
    assert share_read([(4_400_000, 400_000), (4_400_000, 4_000_000)], look_back) > 0.08  # a shallow trial, then a much deeper one
