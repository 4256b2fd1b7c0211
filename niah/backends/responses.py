"""OpenAI's Responses: https://platform.openai.com/docs/api-reference/responses. Also vLLM, SGLang, transformers serve, Azure.

Traps:
- `stream` is always said: transformers serve streams when it is left out.
- `output` holds items: reasoning items come first, and messages of the phase "commentary" are no answer either.
- transformers serve says "completed" of an answer that was cut at the cap. As many tokens as the cap mean a cut one.
- Reasoning counts against `max_output_tokens`: a small cap gives an empty answer, cut.
- There is no way to begin the answer: a last assistant item is only history.
"""

from collections.abc import Mapping
from typing import Any

from niah.backends.bodies import completion, count, no_completion, objects, output_cap, parts, sampling, text, tokens
from niah.backends.models import Capabilities
from niah.backends.wire import Body, Counting, Wire
from niah.trial import Prompt, Reply, Stop, Usage

BASE_URL = "https://api.openai.com/v1"
_REASONS: Mapping[str, Stop] = {"max_output_tokens": "length", "content_filter": "filter"}


def request(prompt: Prompt, model: str, capabilities: Capabilities) -> Body:
    body: Body = {"stream": False, "max_output_tokens": output_cap(prompt, capabilities)}
    return counted(prompt, model, capabilities) | body | sampling(prompt, capabilities, "temperature", "top_p")


def counted(prompt: Prompt, model: str, capabilities: Capabilities) -> Body:
    """What counting and asking have in common."""
    system, user, begun = parts(prompt)
    assert not begun, "the plan lets no prefill through to a wire that does not take it"
    body: Body = {"model": model, "input": [{"role": "user", "content": user}]}
    return body | {"instructions": system} if system else body


def reply(body: Any, seconds: float) -> Reply:
    response = completion(body, "output")
    status = text(response.get("status"))
    if status not in ("completed", "incomplete", "") or not isinstance(response["output"], list):
        raise no_completion(body)
    said = [part for item in objects(response["output"]) if _is_answer(item) for part in objects(item.get("content"))]
    written = "".join(text(part.get("text")) for part in said if part.get("type") == "output_text")
    refusal = "".join(text(part.get("refusal")) for part in said if part.get("type") == "refusal")
    return Reply(
        text=written or refusal,
        stop="refusal" if refusal else _stop(response),
        usage=_usage(response.get("usage")),
        seconds=round(seconds, 4),
        model=text(response.get("model")),
    )


def _is_answer(item: Mapping[str, Any]) -> bool:
    return item.get("type") == "message" and item.get("phase") != "commentary"


def _stop(response: Body) -> Stop:
    if response.get("status") == "incomplete":
        details = response.get("incomplete_details")
        return _REASONS.get(text(details.get("reason")), "unknown") if isinstance(details, dict) else "unknown"
    cap, written = count(response, "max_output_tokens"), count(response, "usage", "output_tokens")
    return "length" if cap and written is not None and written >= cap else "end"


def _usage(usage: Any) -> Usage:
    return Usage(
        input=count(usage, "input_tokens"),
        cached=count(usage, "input_tokens_details", "cached_tokens"),
        output=count(usage, "output_tokens"),
        reasoning=count(usage, "output_tokens_details", "reasoning_tokens"),
        cache_write=count(usage, "input_tokens_details", "cache_write_tokens"),
    )


WIRE = Wire(
    path=lambda _: "/responses",
    request=request,
    reply=reply,
    prefill=False,
    counting=Counting(path=lambda _: "/responses/input_tokens", request=counted, tokens=lambda body: tokens(body, "input_tokens")),
)
