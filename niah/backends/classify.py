"""What a refused request means: status, headers and body of an error become one error of niah's tree.

Providers say the same things in many words; the table in tests/backends/bodies/errors.json holds them.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from niah.backends.rates import should_retry, wait_seconds
from niah.errors import BadRequest, BadResponse, ContextOverflow, FatalError, ProviderError, Refused, RetryableError
from niah.trial import Reply, Usage

FILTERED = Reply(text="", stop="filter", usage=Usage(output=0))
"""What an answer is whose prompt was turned away. The prompt itself may be charged: Azure does."""


def _any(*words: str) -> re.Pattern[str]:
    return re.compile("|".join(words), re.IGNORECASE)


_QUOTA = _any(
    "insufficient_quota", "credit balance", "API usage limits", "spend_limit_reached", "PerDay", "tokens per day", "ServiceQuotaExceeded"
)
# litellm without a database calls every key but its own "no_db_connection".
_CREDENTIALS = _any("API_KEY_INVALID", "API key (not valid|expired)", "location is not supported", "no_db_connection")
_TOO_LARGE_EVER = _any("request too large for")
_OVERLOADED = _any("overloaded", "ModelNotReady")
_THROTTLED = _any("ThrottlingException")
_MODERATED = _any(
    "content_filter",
    "ResponsibleAIPolicyViolation",
    "content management policy",
    r"content[ _]policy[ _]violation|ContentPolicyViolation",
    "content filtering policy",
    "moderation_blocked",
    "requires moderation",
    "(prompt|input|content) (was|has been|is) (flagged|blocked)",
    "violat(e|es|ing) (our |the )?(usage|safety|content)",
    "data_inspection_failed",
    "Content Exists Risk",
)
"""A filter's refusal, in the words of OpenAI, Azure, OpenRouter, Anthropic, litellm, xAI, Alibaba and DeepSeek."""
_OVERFLOW = _any(
    "context_length_exceeded",
    "exceed_context_size",
    "string_above_max_length",
    "context (length|window|size|limit)",
    "(prompt|input) is too long",
    "input token count",
    "input length exceeds",
    r"inputs?`? tokens.{0,40}must be <=",
    r"inputs?`? must have less than",
    "requested tokens",
)
_NO_MODEL = _any(
    r"model\b(?! turn).{0,80}(not found|does not exist|not exist|unknown|invalid|no such|is not supported|end of its life)",
    "(unknown|invalid|no such) model",
    "not a valid model",
    "on-demand throughput isn.t supported",
    "pinned to",  # transformers serve
)


def classify(status: int, headers: Mapping[str, str], body: Any, what: str) -> ProviderError:
    """The error for an answer that is no success. `body` is decoded JSON or text, `what` the beginning of the message."""
    message = message_of(body)
    name = headers.get("x-amzn-errortype", "") or (str(body.get("__type", "")) if isinstance(body, dict) else "")
    everything = f"{name} {body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)}"
    wait = wait_seconds(headers, body, datetime.now(UTC))
    if status in (400, 403, 422) and _MODERATED.search(everything):
        return Refused(what)
    fatal = _fatal(status, message, everything, what)
    if fatal is not None:
        return fatal
    retried = _retryable(status, everything, what, wait)
    if retried is not None and should_retry(headers) is not False:
        return retried
    if retried is None and should_retry(headers):
        return RetryableError(what, kind="server", wait_seconds=wait)
    if status in (405, 501):
        return BadResponse(f"{what} Nothing takes such requests there: check --base-url (it usually ends in /v1).")
    if status == 413 or (status in (400, 422) and _OVERFLOW.search(everything)):
        return ContextOverflow(what)
    return BadRequest(what)


def _fatal(status: int, message: str, everything: str, what: str) -> FatalError | None:
    if status == 402 or (status in (400, 403, 429) and _QUOTA.search(everything)):
        return FatalError(f"{what} The account is out of funds or quota.", kind="quota")
    refused = status in (400, 403, 404, 422)
    overflow = status in (400, 422) and _OVERFLOW.search(everything)
    if refused and not overflow and (status == 404 or "model_not_found" in everything or (status != 403 and _NO_MODEL.search(message))):
        return FatalError(f"{what} Check the model's name, and that --base-url is right (it usually ends in /v1).", kind="unknown_model")
    if status in (401, 403) or (status == 400 and _CREDENTIALS.search(everything)):
        return FatalError(what, kind="credentials")
    return None


def _retryable(status: int, everything: str, what: str, wait: float | None) -> RetryableError | None:
    if status == 429:
        if _TOO_LARGE_EVER.search(everything):
            return None
        kind = "overloaded" if _OVERLOADED.search(everything) else "rate_limit"
        return RetryableError(what, kind=kind, wait_seconds=wait)
    if status == 400 and _THROTTLED.search(everything):
        return RetryableError(what, kind="rate_limit", wait_seconds=wait)
    if status in (408, 409, 424, 425) or (status >= 500 and status != 501):
        kind = "overloaded" if status in (503, 529) else "server"
        return RetryableError(what, kind=kind, wait_seconds=wait)
    return None


def decoded(text: str, reason: str, content_type: str) -> Any:
    """What an error says: decoded JSON, or plain text. What a server repeats of the request ("input") is left out."""
    try:
        body: Any = json.loads(text, object_pairs_hook=lambda pairs: {name: value for name, value in pairs if name != "input"})
    except (ValueError, RecursionError):
        return reason if "html" in content_type else text or reason
    return body[0] if isinstance(body, list) and body else body


def message_of(body: Any) -> str:
    """What a server says of an error: {"error": {"message"}}, {"error": "..."}, {"detail": ...}, {"message"}, or plain text."""
    if isinstance(body, str):
        return body
    if isinstance(body, dict):
        for key in ("error", "detail", "message", "Message"):
            value = body.get(key)
            if isinstance(value, dict) and value.get("message"):
                return str(value["message"])
            if value:
                return value if isinstance(value, str) else json.dumps(value)
    return json.dumps(body)
