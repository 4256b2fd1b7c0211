"""What a provider's headers say of its rate limits and of how long to wait: pure functions, and a way to hear of them.

Names of headers are taken in any case. Where an answer carries the server's own `date`, absolute times are counted from
that, so that a wrong clock here does not turn into a wrong wait.
"""

import math
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,2})?\s*")
_PASSED_ON = "llm_provider-"
_NO_DURATION = 1e8
"""Seconds: a reset beyond that is a date in a form of its own."""
_PART = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(ms|us|µs|ns|d|h|m|s)")
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """What a provider says of its limits: how much there is, what is left of it, and the seconds until all of it is back.

    A limit is mostly a minute's, but the headers do not say so; None is what was not said.
    """

    limit_requests: float | None = None
    remaining_requests: float | None = None
    reset_requests_seconds: float | None = None
    limit_tokens: float | None = None
    remaining_tokens: float | None = None
    reset_tokens_seconds: float | None = None


def rate_limit(headers: Mapping[str, str], now: datetime) -> RateLimit | None:
    """The limits in the headers of OpenAI, Azure, Groq and OpenRouter, or of Anthropic; None where there are none."""
    named = {name: value for name, value in _lower(headers).items() if "ratelimit" in name or name == "date"}
    if len(named) <= ("date" in named):
        return None
    if any(name.startswith("anthropic-ratelimit-") for name in named):
        tokens = "input-tokens" if any(name.startswith("anthropic-ratelimit-input-tokens-") for name in named) else "tokens"
        requests_names = [f"anthropic-ratelimit-requests-{what}" for what in ("limit", "remaining", "reset")]
        tokens_names = [f"anthropic-ratelimit-{tokens}-{what}" for what in ("limit", "remaining", "reset")]
    else:
        requests_names = [f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset")]
        tokens_names = [f"x-ratelimit-{what}-tokens" for what in ("limit", "remaining", "reset")]
    requests = _triple([named.get(name) for name in requests_names], named, now)
    tokens_ = _triple([named.get(name) for name in tokens_names], named, now)
    if requests == tokens_ == (None, None, None):
        return None
    return RateLimit(
        limit_requests=requests[0],
        remaining_requests=requests[1],
        reset_requests_seconds=requests[2],
        limit_tokens=tokens_[0],
        remaining_tokens=tokens_[1],
        reset_tokens_seconds=tokens_[2],
    )


def wait_seconds(headers: Mapping[str, str], body: Any, now: datetime) -> float | None:
    """How long a refused request is to wait: the first that is said of

    `retry-after-ms`, `retry-after` (seconds or an HTTP date), the reset of a limit of which nothing remains, and the
    `retryDelay` in a Gemini error. Some servers say 0 or -1 where they mean that they do not know: that is no wait.
    """
    named = _lower(headers)
    milliseconds, after = _number(named.get("retry-after-ms")), named.get("retry-after")
    if milliseconds is not None and milliseconds > 0:
        return milliseconds / 1000
    if after is not None:
        seconds = _number(after)
        if seconds is None:
            seconds = _until(_http_date(after), _clock(named, now))
        if seconds is not None and seconds > 0:
            return seconds
    return _reset_wait(rate_limit(headers, now)) or _gemini_wait(body)


def should_retry(headers: Mapping[str, str]) -> bool | None:
    """`x-should-retry`, which OpenAI and Anthropic send where the status alone misleads; None where it is not said."""
    said = _lower(headers).get("x-should-retry", "").strip().lower()
    return {"true": True, "false": False}.get(said)


_listener: ContextVar[Callable[[RateLimit], None] | None] = ContextVar("rate_limit_listener", default=None)


@contextmanager
def heard_by(listener: Callable[[RateLimit], None]) -> Generator[None, None, None]:
    """`listener` is told of the limits in every answer to requests that the enclosed code sends.

    So who paces the requests learns of them without their passing through every backend's answer.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def hear(headers: Mapping[str, str]) -> None:
    """For the one place that sends: tells whoever listens of the limits in an answer's headers."""
    listener = _listener.get()
    if listener is not None:
        limit = rate_limit(headers, datetime.now(UTC))
        if limit is not None:
            listener(limit)


def duration_seconds(text: str) -> float | None:
    """The seconds in `6m0s`, `12ms`, `1h2m3.5s`, or a plain number; None for anything else."""
    number = _number(text)
    if number is not None:
        return number
    parts = _PART.findall(text)
    if not parts or "".join(f"{count}{unit}" for count, unit in parts) != text.strip():
        return None
    return sum(float(count) * _SECONDS[unit] for count, unit in parts)


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers by their names in lower case. What a litellm proxy passes on from the provider counts where it says nothing itself."""
    named = {name.lower(): value for name, value in headers.items()}
    for name in [name for name in named if name.startswith(_PASSED_ON)]:
        named.setdefault(name.removeprefix(_PASSED_ON), named[name])
    return named


def _number(text: str | None) -> float | None:
    if text is None or not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _triple(texts: list[str | None], named: Mapping[str, str], now: datetime) -> tuple[float | None, float | None, float | None]:
    """Limit, remaining and reset. A limit that is not above 0 is none (Azure), and then nothing remaining says nothing."""
    limit, remaining = _number(texts[0]), _number(texts[1])
    reset = None if texts[2] is None else duration_seconds(texts[2])
    if texts[2] is not None and reset is None:
        when = _until(_rfc3339(texts[2]), _clock(named, now))
        reset = None if when is None else max(0.0, when)
    if limit is not None and limit <= 0:
        limit = None
    if remaining is not None and (remaining < 0 or (remaining == 0 and limit is None)):
        remaining = None
    if reset is not None and (not 0 <= reset < _NO_DURATION or (reset == 0 and limit is None)):
        reset = None
    return limit, remaining, reset


def _rfc3339(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text.strip().upper())
    except ValueError:
        return None


def _http_date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None


def _until(when: datetime | None, clock: datetime) -> float | None:
    return None if when is None else (when.replace(tzinfo=when.tzinfo or UTC) - clock).total_seconds()


def _clock(named: Mapping[str, str], now: datetime) -> datetime:
    """The time at which an answer was made: by its own `date`, else now."""
    date = _http_date(named["date"]) if "date" in named else None
    return now.replace(tzinfo=now.tzinfo or UTC) if date is None else date.replace(tzinfo=date.tzinfo or UTC)


def _reset_wait(limit: RateLimit | None) -> float | None:
    if limit is None:
        return None
    pairs = (
        (limit.remaining_requests, limit.reset_requests_seconds),
        (limit.remaining_tokens, limit.reset_tokens_seconds),
    )
    return max((reset for remaining, reset in pairs if remaining == 0 and reset), default=None)


def _gemini_wait(body: Any) -> float | None:
    """The longest `error.details[].retryDelay` in an error of Gemini, which may come inside a list."""
    body = body[0] if isinstance(body, list) and body else body
    error = body.get("error") if isinstance(body, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    delays = [detail.get("retryDelay") for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []
    waits = [duration_seconds(delay) for delay in delays if isinstance(delay, str)]
    return max((wait for wait in waits if wait and wait > 0), default=None)
