"""Wire formats: bodies of requests as the providers document them, replies of every kind, errors, and how a prompt cache is shared.

`bodies/replies.json` and `bodies/errors.json` hold what providers answer, written from their documentation and SDKs.
"""

import asyncio
import base64
import copy
import itertools
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from niah.backends import anthropic, bedrock, completions, gemini, ollama, responses
from niah.backends.caching import BORDER_CHARACTERS, LOOK_BACK, MARKS, borders, pieces
from niah.backends.http import Sender
from niah.backends.models import Capabilities, Prices
from niah.backends.wire import Counting, Wire
from niah.errors import ProviderError, RetryableError
from niah.trial import Cue, Prompt, Reply, Sampling, Usage
from tests.chat_server import Answer, ChatServer

BODIES = Path(__file__).parent / "bodies"
REPLIES: list[dict[str, Any]] = json.loads((BODIES / "replies.json").read_text(encoding="utf-8"))
ERRORS: list[dict[str, Any]] = json.loads((BODIES / "errors.json").read_text(encoding="utf-8"))
WIRES: dict[str, Wire] = {
    "anthropic": anthropic.WIRE,
    "converse": bedrock.CONVERSE,
    "invoke": bedrock.INVOKE,
    "gemini": gemini.WIRE,
    "responses": responses.WIRE,
    "ollama": ollama.WIRE,
    "completions": completions.WIRE,
}
ANY = Capabilities(model="x")
CLAUDE = "us.anthropic.claude-haiku-4-5-20251001-v1:0"


def prompt(cue: Cue = "off", *, context: str = "Some text.", shared: int = 0, system: str = "Answer briefly.", **sampling: Any) -> Prompt:
    return Prompt(
        system=system,
        context=context,
        question="Which?",
        cue="" if cue == "off" else "Here it is:",
        cue_mode=cue,
        layout="{context}\n\n{question}",
        tokens=12,
        placements=(),
        sampling=Sampling(**sampling),
        shared_characters=shared,
    )


def asked(name: str, prompt: Prompt, model: str = "m", **facts: Any) -> dict[str, Any]:
    return WIRES[name].request(prompt, model, Capabilities(model="x", **facts))


# --- requests

ASK, CUED = "Some text.\n\nWhich?", "Some text.\n\nWhich?\n\nHere it is:"
BARE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # name: the body without a cue, and what takes a cue's place in it with prefill
    "anthropic": (
        {"model": "m", "max_tokens": 2048, "system": "Answer briefly.", "messages": [{"role": "user", "content": ASK}]},
        {"messages": [{"role": "user", "content": ASK}, {"role": "assistant", "content": "Here it is:"}]},
    ),
    "invoke": (
        {
            "anthropic_version": "bedrock-2023-05-31",
            "max_tokens": 2048,
            "system": "Answer briefly.",
            "messages": [{"role": "user", "content": ASK}],
        },
        {"messages": [{"role": "user", "content": ASK}, {"role": "assistant", "content": "Here it is:"}]},
    ),
    "converse": (
        {
            "system": [{"text": "Answer briefly."}],
            "messages": [{"role": "user", "content": [{"text": ASK}]}],
            "inferenceConfig": {"maxTokens": 2048},
        },
        {"messages": [{"role": "user", "content": [{"text": ASK}]}, {"role": "assistant", "content": [{"text": "Here it is:"}]}]},
    ),
    "gemini": (
        {
            "systemInstruction": {"parts": [{"text": "Answer briefly."}]},
            "contents": [{"role": "user", "parts": [{"text": ASK}]}],
            "generationConfig": {"maxOutputTokens": 2048},
        },
        {"contents": [{"role": "user", "parts": [{"text": ASK}]}, {"role": "model", "parts": [{"text": "Here it is:"}]}]},
    ),
    "responses": (
        {
            "model": "m",
            "instructions": "Answer briefly.",
            "input": [{"role": "user", "content": ASK}],
            "max_output_tokens": 2048,
            "stream": False,
        },
        {},
    ),
    "ollama": (
        {
            "model": "m",
            "messages": [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": ASK}],
            "stream": False,
            "truncate": False,
            "shift": False,
            "options": {"num_ctx": 3072, "num_predict": 2048},
        },
        {},
    ),
    "completions": (
        {"model": "m", "prompt": f"Answer briefly.\n\n{ASK}", "max_tokens": 2048, "stream": False},
        {"prompt": f"Answer briefly.\n\n{ASK}\n\nHere it is:"},
    ),
}


@pytest.mark.parametrize("name", WIRES)
def test_a_body_holds_what_is_needed_and_nothing_else(name: str) -> None:
    """Without a cue and without sampling: exactly these fields. A cue of the user closes the user's text."""
    bare, _ = BARE[name]
    assert asked(name, prompt()) == bare
    cued = json.loads(json.dumps(bare).replace(json.dumps(ASK)[1:-1], json.dumps(CUED)[1:-1]))
    assert asked(name, prompt("user")) == cued


@pytest.mark.parametrize("name", [name for name, wire in WIRES.items() if wire.prefill])
def test_a_begun_answer_is_the_last_turn(name: str) -> None:
    """Prefill changes nothing but the turns; a wire without it is never asked for it."""
    bare, begun = BARE[name]
    assert asked(name, prompt("prefill")) == bare | begun


def test_which_wires_can_begin_the_answer() -> None:
    """OpenAI cannot, Ollama cannot be trusted to; there a prefill is a mistake of the plan."""
    assert {name for name, wire in WIRES.items() if not wire.prefill} == {"responses", "ollama"}
    for name in ("responses", "ollama"):
        with pytest.raises(AssertionError):
            asked(name, prompt("prefill"))


@pytest.mark.parametrize("name", WIRES)
def test_without_a_system_text_there_is_no_system_field(name: str) -> None:
    body = asked(name, prompt(system=""))
    assert not {"system", "systemInstruction", "instructions"} & set(body)
    assert "system" not in json.dumps(body)


SAMPLED: dict[str, dict[str, Any]] = {
    "converse": {"inferenceConfig": {"maxTokens": 77, "temperature": 0.0, "topP": 0.9}},
    "gemini": {"generationConfig": {"maxOutputTokens": 77, "temperature": 0.0, "topP": 0.9}},
    "responses": {"max_output_tokens": 77, "temperature": 0.0, "top_p": 0.9},
    "ollama": {"options": {"num_ctx": 1024, "num_predict": 77, "temperature": 0.0, "top_p": 0.9}},
}


@pytest.mark.parametrize("name", WIRES)
def test_sampling_is_sent_when_asked_for_and_taken(name: str) -> None:
    """Under the provider's names; a model that refuses sampling parameters gets none, whatever the experiment says."""
    hot = prompt(max_output_tokens=77, temperature=0.0, top_p=0.9)
    sampled = SAMPLED.get(name, {"max_tokens": 77, "temperature": 0.0, "top_p": 0.9})
    assert asked(name, hot).items() >= sampled.items()
    assert asked(name, hot, sampling=True) == asked(name, hot)
    assert asked(name, hot, sampling=False) == asked(name, prompt(max_output_tokens=77))


@pytest.mark.parametrize("name", WIRES)
def test_the_cap_is_never_above_the_models(name: str) -> None:
    assert asked(name, prompt(max_output_tokens=5000), max_output_tokens=1000) == asked(name, prompt(max_output_tokens=1000))
    assert asked(name, prompt(max_output_tokens=50), max_output_tokens=1000) == asked(name, prompt(max_output_tokens=50))


def test_ollamas_window_has_room_for_the_prompt_and_the_answer() -> None:
    """1.35 times the planned tokens and the cap, rounded up to 1,024."""
    options = asked("ollama", replace(prompt(max_output_tokens=100), tokens=100_000))["options"]
    assert options == {"num_ctx": 135_168, "num_predict": 100}  # 135,100 rounded up
    assert asked("ollama", replace(prompt(max_output_tokens=1024), tokens=0))["options"]["num_ctx"] == 1024


PATHS = {
    "anthropic": ("claude-haiku-4-5", "/messages"),
    "converse": (CLAUDE, "/model/us.anthropic.claude-haiku-4-5-20251001-v1%3A0/converse"),
    "invoke": (
        "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2",
        "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Aapplication-inference-profile%2Fa1b2/invoke",
    ),
    "gemini": ("gemini-2.5-flash", "/models/gemini-2.5-flash:generateContent"),
    "responses": ("gpt-6.1-sol", "/responses"),
    "ollama": ("llama3.2:3b", "/api/chat"),
    "completions": ("tiny", "/completions"),
}


@pytest.mark.parametrize("name", WIRES)
def test_where_a_request_goes(name: str) -> None:
    model, path = PATHS[name]
    assert WIRES[name].path(model) == path


def test_models_with_odd_names() -> None:
    """Gemini's full names stay; no name leaves its place in the path."""
    assert gemini.WIRE.path("tunedModels/mine-1") == "/tunedModels/mine-1:generateContent"
    assert gemini.WIRE.path("models/gemini-2.5-pro") == "/models/gemini-2.5-pro:generateContent"
    assert gemini.WIRE.path("a?b#c d") == "/models/a%3Fb%23c%20d:generateContent"
    assert bedrock.CONVERSE.path("a/../b?c") == "/model/a%2F..%2Fb%3Fc/converse"
    assert anthropic.WIRE.headers == {"anthropic-version": "2023-06-01"}


# --- counting


def counting(wire: Wire) -> Counting:
    assert wire.counting is not None
    return wire.counting


BEGUN = prompt("prefill", temperature=0.0)
COUNTED: list[tuple[Counting, Prompt, str, dict[str, Any], dict[str, Any]]] = [
    (
        counting(anthropic.WIRE), BEGUN, "/messages/count_tokens",
        {"model": "m", "system": "Answer briefly.", "messages": BARE["anthropic"][1]["messages"]}, {"input_tokens": 14},
    ),
    (
        counting(gemini.WIRE), BEGUN, "/models/m:countTokens",
        {"generateContentRequest": {
            "model": "models/m", "systemInstruction": {"parts": [{"text": "Answer briefly."}]}, **BARE["gemini"][1]
        }},
        {"totalTokens": 14, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 14}]},
    ),
    (
        counting(responses.WIRE), prompt(temperature=0.0), "/responses/input_tokens",
        {"model": "m", "instructions": "Answer briefly.", "input": [{"role": "user", "content": ASK}]},
        {"object": "response.input_tokens", "input_tokens": 14},
    ),
    (
        counting(bedrock.CONVERSE), BEGUN, "/model/m/count-tokens",
        {"input": {"converse": {"system": [{"text": "Answer briefly."}], **BARE["converse"][1]}}}, {"inputTokens": 14},
    ),
    (
        counting(completions.WIRE), BEGUN, "/../tokenize",
        {"model": "m", "prompt": f"Answer briefly.\n\n{ASK}\n\nHere it is:"},
        {"count": 14, "max_model_len": 4096, "tokens": [1], "token_strs": None},
    ),
    (
        completions.TOKENIZE, prompt(), "/../tokenize",
        {"model": "m", "messages": prompt().messages(), "add_generation_prompt": True}, {"count": 14, "max_model_len": 4096},
    ),
    (
        completions.TOKENIZE, BEGUN, "/../tokenize",
        {"model": "m", "messages": BEGUN.messages(), "add_generation_prompt": False, "continue_final_message": True}, {"count": 14},
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("counting", "asking", "path", "body", "answer"), COUNTED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_providers_count(counting: Counting, asking: Prompt, path: str, body: dict[str, Any], answer: dict[str, Any]) -> None:
    """What is counted is what would be asked, without what only asking needs."""
    assert (counting.path("m"), counting.request(asking, "m", ANY), counting.tokens(answer)) == (path, body, 14)


@pytest.mark.parametrize("counting", [each[0] for each in COUNTED[:-1]])
@pytest.mark.parametrize("answer", [{}, None, [], "14", {"input_tokens": -1, "totalTokens": "x", "inputTokens": None, "count": True}])
def test_a_count_that_is_none(counting: Counting, answer: Any) -> None:
    with pytest.raises(RetryableError):
        counting.tokens(answer)


def test_bedrock_counts_models_and_not_profiles() -> None:
    """The region's prefix is no part of a model's id; InvokeModel's body goes as a blob."""
    for wire in (bedrock.CONVERSE, bedrock.INVOKE):
        for geography in ("us.", "global.", "us-gov.", "apac.", ""):
            path = counting(wire).path(f"{geography}anthropic.claude-haiku-4-5-20251001-v1:0")
            assert path == "/model/anthropic.claude-haiku-4-5-20251001-v1%3A0/count-tokens"
    body = counting(bedrock.INVOKE).request(prompt(), "m", ANY)
    assert json.loads(base64.b64decode(body["input"]["invokeModel"]["body"])) == BARE["invoke"][0]


def test_tokenize_stands_at_the_root_of_a_server() -> None:
    """Although the base URL ends in /v1."""

    async def ask(url: str) -> Any:
        sender = Sender(url, headers={})
        try:
            return (await sender.post(completions.TOKENIZE.path("m"), completions.TOKENIZE.request(prompt(), "m", ANY)))[0]
        finally:
            await sender.close()

    with ChatServer(lambda _: Answer(body={"count": 9, "max_model_len": 4096})) as server:
        assert completions.TOKENIZE.tokens(asyncio.run(ask(server.url))) == 9
        assert [each.path for each in server.log] == ["/tokenize"]


# --- replies


@pytest.mark.parametrize("case", REPLIES, ids=[f"{case['wire']}: {case['name']}" for case in REPLIES])
def test_what_a_body_means(case: dict[str, Any]) -> None:
    """Text, stop, counts and served model of each recorded body; what is no answer is an error of the tree."""
    wire = WIRES[case["wire"]]
    if "error" in case:
        with pytest.raises(ProviderError) as caught:
            wire.reply(case["body"], 1.0)
        assert type(caught.value).__name__ == case["error"]
        assert caught.value.kind == case.get("kind", "context_overflow")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300
        return
    usage = Usage(**case["usage"])
    assert wire.reply(case["body"], 1.23456) == Reply(
        text=case["text"], stop=case["stop"], usage=usage, seconds=1.2346, model=case["model"]
    )


def test_every_wire_has_replies_of_each_kind() -> None:
    """The table above would also pass if it were short."""
    for name in WIRES:
        cases = [case for case in REPLIES if case["wire"] == name]
        assert {"error"} <= {key for case in cases for key in case}
        assert {"end"} <= {case.get("stop") for case in cases}
        assert any(case.get("usage", {}).get("input") for case in cases)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["text", "type", "content", "parts", "error"]), inner),
    max_leaves=4,
)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to everything inside a body."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for key, each in inner for place in places(each, (*here, key)))]


@settings(max_examples=150, deadline=None)
@given(case=st.sampled_from(REPLIES), where=st.integers(0, 60), what=JSON)
def test_whatever_stands_in_a_body(case: dict[str, Any], where: int, what: Any) -> None:
    """A body with any part replaced by anything gives a Reply with sound counts, or an error of the tree."""
    ways = places(case["body"])
    way = ways[where % len(ways)]
    body = copy.deepcopy(case["body"]) if way else what
    inner = body
    for key in way[:-1]:
        inner = inner[key]
    if way:
        inner[way[-1]] = what
    try:
        reply = WIRES[case["wire"]].reply(body, 1.0)
    except ProviderError:
        return
    assert isinstance(reply.text, str)
    assert isinstance(reply.model, str)
    counts = [reply.usage.input, reply.usage.cached, reply.usage.output, reply.usage.reasoning, reply.usage.cache_write]
    assert all(each is None or (type(each) is int and each >= 0) for each in counts)


# --- the prompt cache: how the user's message is cut

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


# --- errors: the table that niah/backends/http.py is held against


@pytest.mark.parametrize("case", ERRORS, ids=[f"{case['provider']} {case['status']} {str(case['body'])[:60]}" for case in ERRORS])
def test_error_bodies(case: dict[str, Any]) -> None:
    """Each provider's errors as they are documented or were seen: class, kind and the wait that is asked for."""

    async def ask(url: str) -> None:
        sender = Sender(url, headers={}, timeout_seconds=5)
        try:
            await sender.post("/x", {})
        finally:
            await sender.close()

    answer = Answer(status=case["status"], headers=case["headers"], body=case["body"])
    with ChatServer(lambda _: answer) as server, pytest.raises(ProviderError) as caught:
        asyncio.run(ask(server.url))
    error = caught.value
    assert (type(error).__name__, error.kind) == (case["expected_class"], case["expected_kind"])
    assert getattr(error, "wait_seconds", None) == case["expected_wait_seconds"]
