"""Chat completions: the body of a request, and the reply in whatever real servers send."""

import asyncio
from typing import Any

import pytest

from niah.backends import TABLE, Connection, open_backend
from niah.backends.models import Capabilities
from niah.backends.openai import OPENAI, SERVER, reply
from niah.errors import ContextOverflow, RetryableError, UsageError
from niah.trial import Cue, Prompt, Reply, Sampling, Usage
from tests.chat_server import Answer, ChatServer, completion

UNKNOWN = Capabilities(model="x")


def prompt(cue: Cue = "off", **sampling: Any) -> Prompt:
    return Prompt(
        system="Answer briefly.",
        context="Some text.",
        question="Which?",
        cue="" if cue == "off" else "Here it is:",
        cue_mode=cue,
        layout="{context}\n\n{question}",
        tokens=12,
        placements=(),
        sampling=Sampling(**sampling),
    )


def ask(answer: Answer | str, cue: Cue = "off") -> Reply:
    async def once() -> Reply:
        backend = open_backend("server/m", Connection(base_url=server.url, timeout_seconds=5))
        try:
            return await backend.ask(prompt(cue))
        finally:
            await backend.close()

    with ChatServer(lambda _: answer) as server:
        return asyncio.run(once())


def test_the_bodies_of_the_three_cue_modes() -> None:
    """Exactly these fields, for a server: off and user end in the user's turn, prefill in the assistant's with its two switches."""
    system, user = {"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "Some text.\n\nWhich?"}
    plain = {"model": "m", "stream": False, "max_tokens": 2048}
    assert SERVER.request(prompt(), "m", UNKNOWN) == {**plain, "messages": [system, user]}
    closing = {"role": "user", "content": "Some text.\n\nWhich?\n\nHere it is:"}
    assert SERVER.request(prompt("user"), "m", UNKNOWN) == {**plain, "messages": [system, closing]}
    begun = {"role": "assistant", "content": "Here it is:"}
    assert SERVER.request(prompt("prefill"), "m", UNKNOWN) == {
        **plain,
        "messages": [system, user, begun],
        "continue_final_message": True,
        "add_generation_prompt": False,
    }


def test_openai_itself_has_its_own_name_for_the_cap() -> None:
    """max_completion_tokens there, and only there; sampling fields only when given."""
    body = OPENAI.request(prompt(max_output_tokens=77, temperature=0.0), "gpt", UNKNOWN)
    assert body["max_completion_tokens"] == 77
    assert "max_tokens" not in body
    assert body["temperature"] == 0.0
    assert "top_p" not in body


def body(message: Any, finish: Any = "stop", **more: Any) -> dict[str, Any]:
    return {"model": "served", "choices": [{"index": 0, "message": message, "finish_reason": finish}], **more}


@pytest.mark.parametrize(
    ("answer", "text", "stop"),
    [
        (body({"content": "yes"}), "yes", "end"),
        (body({"content": "yes"}, "eos"), "yes", "end"),
        (body({"content": "ye"}, "length"), "ye", "length"),
        (body({"content": "ye"}, "max_tokens"), "ye", "length"),
        (body({"content": None}, "content_filter"), "", "filter"),
        (body({"content": None, "refusal": "I cannot."}), "I cannot.", "refusal"),
        (body({"content": "No.", "refusal": "I cannot."}), "No.", "refusal"),
        (body({"content": "yes"}, None), "yes", "unknown"),
        (body({"content": "yes"}, "tool_calls"), "yes", "unknown"),
        (body({"content": [{"type": "text", "text": "ye"}, {"type": "text", "text": "s"}]}), "yes", "end"),
        (body({"content": [{"type": "output_text", "text": {"text": "odd"}}, "s", {"type": "image"}]}), "", "end"),
        (body({"content": None, "reasoning_content": "the answer is yes"}), "", "end"),
        (body({"content": "yes", "reasoning": "a thought", "reasoning_content": "a thought"}), "yes", "end"),
        (body({"content": "<think>hm</think>yes"}), "<think>hm</think>yes", "end"),
        (body({"content": 42}), "", "end"),
        (body({}), "", "end"),
    ],
)
def test_text_and_stop_of_a_reply(answer: Any, text: str, stop: str) -> None:
    """Strings, lists of parts, nothing; reasoning fields are no answer; each finish reason in niah's word."""
    got = reply(answer, 0.5)
    assert (got.text, got.stop, got.seconds, got.model) == (text, stop, 0.5, "served")


@pytest.mark.parametrize(
    ("usage", "wanted"),
    [
        (None, Usage()),
        ("many", Usage()),
        ([], Usage()),
        ({}, Usage()),
        ({"prompt_tokens": 10, "completion_tokens": 3}, Usage(input=10, output=3)),
        ({"prompt_tokens": 10, "prompt_tokens_details": None, "completion_tokens_details": None}, Usage(input=10)),
        (
            {
                "prompt_tokens": 408,
                "completion_tokens": 30,
                "prompt_tokens_details": {"cached_tokens": 384},
                "completion_tokens_details": {"reasoning_tokens": 20},
            },
            Usage(input=408, cached=384, output=30, reasoning=20),
        ),
        ({"prompt_tokens": "408", "completion_tokens": -1, "prompt_tokens_details": [1]}, Usage()),
        ({"prompt_tokens": 408.0, "completion_tokens": float("inf")}, Usage(input=408)),
    ],
)
def test_usage_is_read_where_it_is_one(usage: Any, wanted: Usage) -> None:
    """Counts and their details; what is no count is not known."""
    assert reply(body({"content": "yes"}, usage=usage), 0).usage == wanted


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"choices": []},
        {"choices": None},
        {"choices": [None]},
        {"choices": ["text"]},
        {"choices": [{"message": None}]},
        {"choices": [{"text": "a plain completion"}]},
        {"error": {"message": "upstream failed", "code": 502}},
        {"error": "upstream failed", "choices": None},
        body({"content": "half an ans"}, "error"),
        body({"content": "half an ans"}, "abort"),
        {"choices": [{"message": {"content": ""}, "finish_reason": None, "error": {"message": "provider died"}}]},
    ],
)
def test_what_is_no_completion_is_an_error_and_no_miss(answer: Any) -> None:
    """Errors inside a 200, answers that broke off at the server, other shapes: to be asked again."""
    with pytest.raises(RetryableError) as caught:
        reply(answer, 0)
    assert caught.value.kind == "server"
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("answer", ["[]", "null", '"text"', "1"])
def test_json_that_is_no_object_is_asked_for_again(answer: str) -> None:
    """A server in trouble says so: other JSON without a completion is asked for again as well."""
    with pytest.raises(RetryableError):
        ask(Answer(body=answer))


def test_an_overflow_inside_a_successful_answer_is_an_overflow() -> None:
    """Gateways pass on what the model behind them said, with a status of their own."""
    with pytest.raises(ContextOverflow):
        reply({"error": {"message": "This model's maximum context length is 4096 tokens.", "code": 400}}, 0)


def test_a_real_answer_over_http() -> None:
    """Text, served name, usage and a measured time."""
    got = ask(completion("The mason.", usage={"prompt_tokens": 12, "completion_tokens": 4}, delay=0.05))
    assert (got.text, got.stop, got.model, got.usage) == ("The mason.", "end", "served-model", Usage(input=12, output=4))
    assert 0.04 < got.seconds < 5


def test_half_a_surrogate_pair_in_an_answer_is_kept() -> None:
    """A model may be cut in the middle of a pair; that is text all the same."""
    assert ask(Answer(body=b'{"choices": [{"message": {"content": "x \\ud83d"}, "finish_reason": "stop"}]}')).text == "x \ud83d"


def test_backends_are_found_by_their_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry of the table opens; unknown names are refused with the nearest known one."""
    for variable, value in {"OPENAI_API_KEY": "sk-0123456789abcdef", "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(variable, value)
    names = {"baseline": "bm25"}
    for prefix in TABLE:
        backend = open_backend(f"{prefix}/{names.get(prefix, 'm')}", Connection(base_url="http://127.0.0.1:1/v1"))
        assert backend.preferred_cue in backend.cues
        assert backend.concurrency >= 1
        asyncio.run(backend.close())
    assert open_backend("openai/m").cues == {"off", "user"}
    assert open_backend("server/m", Connection(base_url="https://h/v1")).concurrency == 64
    for name, told in (("opnai/m", "'openai'"), ("baseline/bm52", "baseline/bm25"), ("server/", "server/NAME"), ("m", "known:")):
        with pytest.raises(UsageError, match=told):
            open_backend(name, Connection(base_url="http://h/v1"))
