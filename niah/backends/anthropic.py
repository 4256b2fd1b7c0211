"""Anthropic's Messages: https://docs.claude.com/en/api/messages. Also what vLLM, SGLang and llama.cpp offer as /v1/messages.

Traps:
- `max_tokens` is required, and thinking counts against it: a cap that fits the answer alone gives an empty answer, cut.
- `input_tokens` is without what was read from or written to the cache; the sum of the three is the prompt.
- Thinking blocks come in front of the text: never take `content[0]`.
- Newer models refuse temperature, top_p and a begun answer with a 400. A begun answer must not end in a blank.
- An overload may come inside an answer with status 200 as `{"type": "error", ...}`.
- The window may run out while the answer is written: 200 with `model_context_window_exceeded`.
- How the message is cut for the prompt cache is told in caching.py.
"""

from collections.abc import Mapping
from typing import Any

from niah.backends.bodies import completion, count, no_completion, objects, output_cap, parts, sampling, text, tokens, total
from niah.backends.caching import pieces
from niah.backends.models import Capabilities
from niah.backends.wire import Body, Counting, Wire
from niah.errors import ContextOverflow
from niah.trial import Prompt, Reply, Stop, Usage

BASE_URL = "https://api.anthropic.com/v1"
_STOPS: Mapping[str, Stop] = {"end_turn": "end", "stop_sequence": "end", "max_tokens": "length", "refusal": "refusal"}


def request(prompt: Prompt, model: str, capabilities: Capabilities) -> Body:
    return {"model": model, **unaddressed(prompt, capabilities)}


def unaddressed(prompt: Prompt, capabilities: Capabilities) -> Body:
    """The request without the model's name, which Bedrock wants in the path."""
    body: Body = {"max_tokens": output_cap(prompt, capabilities), **_said(prompt, capabilities)}
    return body | sampling(prompt, capabilities, "temperature", "top_p")


def counted(prompt: Prompt, model: str, capabilities: Capabilities) -> Body:
    return {"model": model, **_said(prompt, capabilities)}


def _said(prompt: Prompt, capabilities: Capabilities) -> Body:
    """System and messages: what counting and asking have in common."""
    system, _, begun = parts(prompt)
    cut = pieces(prompt, capabilities)
    messages: list[Body] = [{"role": "user", "content": cut[0][0] if len(cut) == 1 else [_block(*piece) for piece in cut]}]
    if begun:
        messages.append({"role": "assistant", "content": begun})
    return {"system": system, "messages": messages} if system else {"messages": messages}


def _block(piece: str, marked: bool) -> Body:
    block: Body = {"type": "text", "text": piece}
    return block | {"cache_control": {"type": "ephemeral"}} if marked else block


def reply(body: Any, seconds: float) -> Reply:
    message = completion(body, "content")
    if not isinstance(message["content"], list):
        raise no_completion(body)
    reason = text(message.get("stop_reason"))
    if reason == "model_context_window_exceeded":
        raise ContextOverflow("the model's window ran out while it answered (model_context_window_exceeded)")
    return Reply(
        text="".join(text(block.get("text")) for block in objects(message["content"]) if block.get("type") == "text"),
        stop=_STOPS.get(reason, "unknown"),
        usage=_usage(message.get("usage")),
        seconds=round(seconds, 4),
        model=text(message.get("model")),
    )


def _usage(usage: Any) -> Usage:
    return Usage(
        input=total(usage, "input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
        cached=count(usage, "cache_read_input_tokens"),
        output=count(usage, "output_tokens"),
        reasoning=count(usage, "output_tokens_details", "thinking_tokens"),
        cache_write=count(usage, "cache_creation_input_tokens"),
    )


WIRE = Wire(
    path=lambda _: "/messages",
    request=request,
    reply=reply,
    prefill=True,
    counting=Counting(path=lambda _: "/messages/count_tokens", request=counted, tokens=lambda body: tokens(body, "input_tokens")),
    headers={"anthropic-version": "2023-06-01"},
)
