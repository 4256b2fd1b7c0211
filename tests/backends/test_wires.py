"""Wire formats: bodies of requests as the providers document them, where they go, and how tokens are counted."""

import asyncio
import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from niah.backends import anthropic, bedrock, completions, gemini, responses
from niah.backends.http import Sender
from niah.backends.wire import Counting
from niah.errors import RetryableError
from niah.trial import Prompt
from tests.backends.wires import ANY, CLAUDE, WIRES, asked, counting, prompt
from tests.chat_server import Answer, ChatServer

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
