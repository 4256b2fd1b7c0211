"""Raw completions, for base models behind an OpenAI-compatible server (`--raw`); and vLLM's token count of a prompt.

A base model knows no roles: it reads one text and goes on with it. System, user's message and a begun answer are joined by blank lines.

Traps:
- Without a chat template nothing ends the answer: it runs on to the cap. What stands there by then is the answer, so stop is "end"
  although the server says "length"; otherwise no base model could ever miss. A cap of 100 tokens is plenty.
- Nothing says that an answer is asked for: a base model wants the cue at the very end (`prefill`, which works everywhere here).
- `/tokenize` stands at the root of a vLLM server, not under /v1, hence the path that goes up one step.
"""

from collections.abc import Mapping
from typing import Any

from niah.backends.bodies import completion, count, no_completion, objects, output_cap, parts, sampling, text, tokens
from niah.backends.models import Capabilities
from niah.backends.wire import Body, Counting, Wire
from niah.trial import Prompt, Reply, Stop, Usage

_STOPS: Mapping[str, Stop] = {"stop": "end", "eos": "end", "length": "end", "max_tokens": "end", "content_filter": "filter"}
_BROKEN = ("error", "abort")


def request(prompt: Prompt, model: str, capabilities: Capabilities) -> Body:
    body: Body = {"model": model, "prompt": raw(prompt), "stream": False, "max_tokens": output_cap(prompt, capabilities)}
    return body | sampling(prompt, capabilities, "temperature", "top_p")


def raw(prompt: Prompt) -> str:
    """The text that a base model goes on with."""
    return "\n\n".join(part for part in parts(prompt) if part)


def reply(body: Any, seconds: float) -> Reply:
    answer = completion(body, "choices")
    choice = next(iter(objects(answer["choices"])), None)
    if choice is None or not isinstance(choice.get("text"), str):
        raise no_completion(body)
    finish = text(choice.get("finish_reason")).lower()
    if finish in _BROKEN:
        raise no_completion(f"it broke off ({finish})")
    return Reply(
        text=choice["text"],
        stop=_STOPS.get(finish, "unknown"),
        usage=_usage(answer.get("usage")),
        seconds=round(seconds, 4),
        model=text(answer.get("model")),
    )


def _usage(usage: Any) -> Usage:
    return Usage(
        input=count(usage, "prompt_tokens"),
        cached=count(usage, "prompt_tokens_details", "cached_tokens"),
        output=count(usage, "completion_tokens"),
        reasoning=count(usage, "completion_tokens_details", "reasoning_tokens"),
    )


def _tokenize_messages(prompt: Prompt, model: str, capabilities: Capabilities) -> Body:
    begun = prompt.cue_mode == "prefill"
    body: Body = {"model": model, "messages": prompt.messages(), "add_generation_prompt": not begun}
    return body | {"continue_final_message": True} if begun else body


def _tokenize_raw(prompt: Prompt, model: str, capabilities: Capabilities) -> Body:
    return {"model": model, "prompt": raw(prompt)}


TOKENIZE = Counting(path=lambda _: "/../tokenize", request=_tokenize_messages, tokens=lambda body: tokens(body, "count"))
"""vLLM's count of a chat prompt; the answer also holds `max_model_len`."""

WIRE = Wire(
    path=lambda _: "/completions",
    request=request,
    reply=reply,
    prefill=True,
    counting=Counting(path=lambda _: "/../tokenize", request=_tokenize_raw, tokens=lambda body: tokens(body, "count")),
)
