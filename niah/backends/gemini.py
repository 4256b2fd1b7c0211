"""Gemini's generateContent: https://ai.google.dev/api/generate-content. The model stands in the path, the key in `x-goog-api-key`.

Traps:
- A blocked prompt is a 200 without candidates, with `promptFeedback.blockReason`.
- Thoughts are parts with `thought: true`; their tokens are told beside the answer's (`thoughtsTokenCount`) and billed like them.
- Numbers that are 0 are left out of the answer: a prompt whose cap went into thoughts has no `candidatesTokenCount`.
- Newer models refuse a last turn of the model with a 400; the older ones go on with it.
- An answer without any part and with STOP happens. It is empty for no reason that is told: stop is "unknown".
- `countTokens` counts the system instruction only inside `generateContentRequest`, where the model is named `models/NAME`.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from niah.backends.bodies import completion, count, no_completion, objects, output_cap, parts, sampling, text, tokens, total
from niah.backends.models import Capabilities
from niah.backends.wire import Body, Counting, Wire
from niah.trial import Prompt, Reply, Stop, Usage

BASE_URL = "https://generativelanguage.googleapis.com/v1beta"
_STOPS: Mapping[str, Stop] = {
    "STOP": "end",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    "SAFETY": "filter",
    "RECITATION": "filter",
    "BLOCKLIST": "filter",
    "PROHIBITED_CONTENT": "filter",
    "SPII": "filter",
    "ESCALATION": "filter",
    "MODEL_ARMOR": "filter",
    "PUP_LIMITED_DISABLED": "filter",
}


def request(prompt: Prompt, model: str, capabilities: Capabilities) -> Body:
    generation: Body = {"maxOutputTokens": output_cap(prompt, capabilities)}
    return _said(prompt) | {"generationConfig": generation | sampling(prompt, capabilities, "temperature", "topP")}


def counted(prompt: Prompt, model: str, capabilities: Capabilities) -> Body:
    return {"generateContentRequest": {"model": _named(model), **_said(prompt)}}


def _said(prompt: Prompt) -> Body:
    system, user, begun = parts(prompt)
    contents: list[Body] = [{"role": "user", "parts": [{"text": user}]}]
    if begun:
        contents.append({"role": "model", "parts": [{"text": begun}]})
    return ({"systemInstruction": {"parts": [{"text": system}]}} if system else {}) | {"contents": contents}


def _named(model: str) -> str:
    return model if model.startswith(("models/", "tunedModels/")) else f"models/{model}"


def _path(method: str, model: str) -> str:
    return f"/{quote(_named(model))}:{method}"


def reply(body: Any, seconds: float) -> Reply:
    answer = completion(body)
    candidates = list(objects(answer.get("candidates")))
    written, stop = _written(candidates[0]) if candidates else _blocked(answer)
    return Reply(
        text=written,
        stop=stop,
        usage=_usage(answer.get("usageMetadata")),
        seconds=round(seconds, 4),
        model=text(answer.get("modelVersion")),
    )


def _written(candidate: Mapping[str, Any]) -> tuple[str, Stop]:
    content = candidate.get("content")
    said = list(objects(content.get("parts"))) if isinstance(content, dict) else []
    written = "".join(text(part.get("text")) for part in said if part.get("thought") is not True)
    stop = _STOPS.get(text(candidate.get("finishReason")), "unknown")
    return written, "unknown" if stop == "end" and not said else stop


def _blocked(answer: Body) -> tuple[str, Stop]:
    feedback = answer.get("promptFeedback")
    if not isinstance(feedback, dict) or not feedback.get("blockReason"):
        raise no_completion(answer)
    return "", "filter"


def _usage(usage: Any) -> Usage:
    return Usage(
        input=count(usage, "promptTokenCount"),
        cached=count(usage, "cachedContentTokenCount"),
        output=_output(usage),
        reasoning=count(usage, "thoughtsTokenCount"),
    )


def _output(usage: Any) -> int | None:
    """Answer and thoughts. Where neither or only one is told, the other is 0 if the total says so."""
    if not isinstance(usage, dict):
        return None
    if "candidatesTokenCount" in usage:
        return total(usage, "candidatesTokenCount", "thoughtsTokenCount")
    whole, prompt = count(usage, "totalTokenCount"), total(usage, "promptTokenCount", "toolUsePromptTokenCount")
    if whole is None or prompt is None or whole < prompt:
        return count(usage, "thoughtsTokenCount")
    return whole - prompt


WIRE = Wire(
    path=lambda model: _path("generateContent", model),
    request=request,
    reply=reply,
    prefill=True,
    counting=Counting(path=lambda model: _path("countTokens", model), request=counted, tokens=lambda body: tokens(body, "totalTokens")),
)
