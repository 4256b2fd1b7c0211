"""Chat completions as OpenAI defined them: for OpenAI and Azure, OpenRouter, and every server that speaks them.

Two pure functions, `request` and `reply`, hold the format; no optional field is sent that the experiment did not ask for,
because real servers refuse fields that they do not know.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from niah.backends import responses
from niah.backends.bodies import error_inside, output_cap, sampling
from niah.backends.completions import TOKENIZE
from niah.backends.models import Capabilities
from niah.backends.wire import Body, Counting, Wire
from niah.errors import ContextOverflow, RetryableError
from niah.trial import Prompt, Reply, Stop, Usage

_STOPS: Mapping[str, Stop] = {
    "stop": "end",
    "eos": "end",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "filter",
    "safety": "filter",
    "refusal": "refusal",
}
_BROKEN = ("error", "abort", "insufficient_system_resource")
"""Finish reasons of answers that broke off at the server: no answers, however much text came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Where servers differ: the name of the output cap, how a last assistant turn is continued (None: it is not), what else is sent."""

    output_cap: str
    prefill: Mapping[str, Any] | None
    added: Mapping[str, Any] = field(default_factory=dict[str, Any])
    counting: Counting | None = None


def request(prompt: Prompt, model: str, capabilities: Capabilities, dialect: Dialect) -> Body:
    """The body of a chat completion request."""
    body: Body = {"model": model, "messages": prompt.messages(), "stream": False, dialect.output_cap: output_cap(prompt, capabilities)}
    body |= sampling(prompt, capabilities, "temperature", "top_p")
    if prompt.cue_mode == "prefill":
        assert dialect.prefill is not None, "the plan lets no prefill through to a backend that does not take it"
        body |= dialect.prefill
    return body | dict(dialect.added)


def reply(body: Any, seconds: float) -> Reply:
    """The Reply in a chat completion; RetryableError when the body is not one."""
    try:
        choice = body["choices"][0]
        message = choice["message"]
        content, finish, error = message.get("content"), str(choice.get("finish_reason")).lower(), choice.get("error")
    except (KeyError, IndexError, TypeError, AttributeError):
        error = body.get("error") if isinstance(body, dict) else None
        inside = error_inside(error) if error else None
        if isinstance(inside, ContextOverflow):
            raise inside from None
        what = f"an error inside a successful answer: {error}" if error else f"the answer is no chat completion: {body}"
        raise RetryableError(what[:250], kind="server", billed=True) from None
    if error or finish in _BROKEN:
        raise RetryableError(f"the answer broke off at the server: {error or finish}"[:250], kind="server", billed=True)
    stop: Stop = _STOPS.get(finish, "unknown")
    text = _text(content)
    if refusal := message.get("refusal"):
        text, stop = text or str(refusal), "refusal"
    return Reply(text=text, stop=stop, usage=_usage(body.get("usage")), seconds=round(seconds, 4), model=str(body.get("model") or ""))


def _text(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _usage(usage: Any) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    return Usage(
        input=_count(usage, "prompt_tokens"),
        cached=_count(usage.get("prompt_tokens_details"), "cached_tokens"),
        output=_count(usage, "completion_tokens"),
        reasoning=_count(usage.get("completion_tokens_details"), "reasoning_tokens"),
    )


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return int(value) if isinstance(value, int | float) and 0 <= value < 1e12 else None


def chat(dialect: Dialect) -> Wire:
    """The wire of a dialect."""
    return Wire(
        path=lambda _: "/chat/completions",
        request=lambda prompt, model, capabilities: request(prompt, model, capabilities, dialect),
        reply=reply,
        prefill=dialect.prefill is not None,
        counting=dialect.counting,
    )


OPENAI = chat(Dialect(output_cap="max_completion_tokens", prefill=None, counting=responses.WIRE.counting))
SERVER = chat(Dialect(output_cap="max_tokens", prefill={"continue_final_message": True, "add_generation_prompt": False}, counting=TOKENIZE))
# Its compression of long prompts cuts out their middle, which is where needles are.
OPENROUTER = chat(Dialect(output_cap="max_tokens", prefill=None, added={"plugins": [{"id": "context-compression", "enabled": False}]}))
