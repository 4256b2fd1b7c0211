"""What providers' headers say of limits and waits, in every form of providers.md part 5."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from niah.backends.rates import RateLimit, duration_seconds, hear, heard_by, rate_limit, should_retry, wait_seconds

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
OPENAI = {
    "x-ratelimit-limit-requests": "5000",
    "x-ratelimit-remaining-requests": "4999",
    "x-ratelimit-reset-requests": "12ms",
    "x-ratelimit-limit-tokens": "160000",
    "x-ratelimit-remaining-tokens": "0",
    "x-ratelimit-reset-tokens": "6m0s",
}
ANTHROPIC = {
    "anthropic-ratelimit-requests-limit": "50",
    "anthropic-ratelimit-requests-remaining": "49",
    "anthropic-ratelimit-requests-reset": "2026-11-23T12:00:02Z",
    "anthropic-ratelimit-tokens-limit": "48000",
    "anthropic-ratelimit-tokens-remaining": "47000",
    "anthropic-ratelimit-tokens-reset": "2026-11-23T12:00:04Z",
}
INPUT_TOKENS = {
    "anthropic-ratelimit-input-tokens-limit": "40000",
    "anthropic-ratelimit-input-tokens-remaining": "0",
    "anthropic-ratelimit-input-tokens-reset": "2026-11-23T13:01:00+01:00",
    "anthropic-ratelimit-output-tokens-limit": "8000",
    "anthropic-ratelimit-output-tokens-remaining": "0",
}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360),
        ("12ms", 0.012),
        ("1h2m3.5s", 3723.5),
        ("1.5s", 1.5),
        ("34s", 34),
        ("34.074824224s", 34.074824224),
        ("1d", 86400),
        ("500µs", 0.0005),
        ("60", 60),
        (" 0.25 ", 0.25),
        ("-1", -1),
        ("", None),
        ("soon", None),
        ("5 minutes", None),
        ("s", None),
        ("1m-2s", None),
        ("nan", None),
        ("inf", None),
        ("1_000", None),
    ],
)
def test_durations(text: str, seconds: float | None):
    assert duration_seconds(text) == (None if seconds is None else pytest.approx(seconds))


def test_openai():
    assert rate_limit(OPENAI, NOW) == RateLimit(
        limit_requests=5000,
        remaining_requests=4999,
        reset_requests_seconds=pytest.approx(0.012),
        limit_tokens=160000,
        remaining_tokens=0,
        reset_tokens_seconds=360,
    )


def test_names_of_headers_come_in_any_case():
    loud = {name.upper(): value for name, value in OPENAI.items()}
    assert rate_limit(loud, NOW) == rate_limit(httpx.Headers(OPENAI), NOW) == rate_limit(OPENAI, NOW)


def test_azure_says_nothing_by_what_is_not_above_zero():
    azure = {"x-ratelimit-limit-tokens": "-1", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "0"}
    assert rate_limit(azure, NOW) is None
    limit = rate_limit(azure | {"x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "7"}, NOW)
    assert limit == RateLimit(remaining_requests=9, reset_requests_seconds=7)


def test_anthropic_and_its_input_tokens_before_its_tokens():
    limit = rate_limit(ANTHROPIC, NOW)
    assert limit is not None
    assert (limit.limit_requests, limit.remaining_requests, limit.reset_requests_seconds) == (50, 49, 2)
    assert (limit.limit_tokens, limit.remaining_tokens, limit.reset_tokens_seconds) == (48000, 47000, 4)
    limit = rate_limit(ANTHROPIC | INPUT_TOKENS, NOW)
    assert limit is not None
    assert (limit.limit_tokens, limit.remaining_tokens, limit.reset_tokens_seconds) == (40000, 0, 60)


def test_a_reset_that_is_past_is_now():
    limit = rate_limit(ANTHROPIC, NOW + timedelta(minutes=5))
    assert limit is not None
    assert limit.reset_requests_seconds == 0


def test_absolute_times_count_from_the_servers_own_clock():
    fast = NOW + timedelta(minutes=10)  # this machine's clock is wrong
    limit = rate_limit(ANTHROPIC | {"date": format_datetime(NOW, usegmt=True)}, fast)
    assert limit is not None
    assert limit.reset_requests_seconds == 2
    headers = {"retry-after": format_datetime(NOW + timedelta(seconds=20), usegmt=True), "date": format_datetime(NOW, usegmt=True)}
    assert wait_seconds(headers, None, fast) == 20


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json", "date": format_datetime(NOW)},
        {"x-ratelimit-limit-requests": "many"},
        {"x-ratelimit-policy": "60;w=60"},
        {"x-ratelimit-reset-requests": "1763900000"},
        {"anthropic-ratelimit-unified-status": "allowed"},
    ],
)
def test_others_say_nothing(headers: dict[str, str]):
    assert rate_limit(headers, NOW) is None


GEMINI = {"error": {"code": 429, "details": [{"@type": "Help"}, {"@type": "RetryInfo", "retryDelay": "34s"}]}}


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after-ms": "1500", "retry-after": "60"}, None, 1.5),
        ({"retry-after": "60"} | OPENAI, None, 60),
        ({"Retry-After": "2.5"}, None, 2.5),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=9), usegmt=True)}, None, 9),
        ({"retry-after": "0"} | OPENAI, None, 360),
        ({"retry-after": "-1", "retry-after-ms": "0"}, None, None),
        ({"retry-after": format_datetime(NOW - timedelta(seconds=9), usegmt=True)}, None, None),
        ({"retry-after": "soon", "retry-after-ms": "soon"}, None, None),
        ({"llm_provider-retry-after": "7"}, None, 7),
        ({"LLM_Provider-Retry-After-Ms": "1500", "llm_provider-retry-after": "60"}, None, 1.5),
        ({"retry-after": "3", "llm_provider-retry-after": "60"}, None, 3),
        ({f"llm_provider-{name}": value for name, value in OPENAI.items()} | {"x-ratelimit-remaining-requests": "0"}, None, 360),
        (OPENAI, None, 360),
        (ANTHROPIC, None, None),
        (ANTHROPIC | INPUT_TOKENS, None, 60),
        ({}, GEMINI, 34),
        ({}, [GEMINI], 34),
        ({}, {"error": {"details": [{"retryDelay": "1.5s"}, {"retryDelay": 3}, "x"]}}, 1.5),
        (OPENAI, GEMINI, 360),
        ({}, {"error": {"details": {"retryDelay": "1s"}}}, None),
        ({}, {"error": "slow down"}, None),
        ({}, "slow down", None),
        ({}, [], None),
    ],
)
def test_waits(headers: dict[str, str], body: Any, seconds: float | None):
    assert wait_seconds(headers, body, NOW) == seconds


def test_should_retry():
    assert [should_retry({"X-Should-Retry": value}) for value in ("true", " False ", "maybe")] == [True, False, None]
    assert should_retry({}) is None


JUNK = st.dictionaries(
    st.sampled_from([*OPENAI, *ANTHROPIC, *INPUT_TOKENS, "retry-after", "retry-after-ms", "date"]),
    st.one_of(
        st.text(max_size=12), st.sampled_from(["-1", "0", "1e9", "9" * 400, "2026-13-01T00:00:00Z", "Mon, 99 Nov 2026 00:00:00 GMT"])
    ),
)


@given(JUNK, st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.just("error"), inner)))
def test_nothing_that_a_server_says_is_an_error(headers: dict[str, str], body: Any):
    wait = wait_seconds(headers, body, NOW)
    assert wait is None or wait > 0
    limit = rate_limit(headers, NOW)
    if limit is not None:
        assert limit.limit_tokens is None or limit.limit_tokens > 0
        assert limit.remaining_tokens is None or limit.remaining_tokens >= 0


def test_who_listens_hears_of_its_own_requests_only():
    async def ask(heard: list[float | None], limit: str) -> None:
        with heard_by(lambda told: heard.append(told.limit_requests)):
            await asyncio.sleep(0)
            hear({"x-ratelimit-limit-requests": limit})
            hear({"content-type": "text/plain"})
        hear({"x-ratelimit-limit-requests": "1"})

    async def both() -> tuple[list[float | None], list[float | None]]:
        one: list[float | None] = []
        other: list[float | None] = []
        await asyncio.gather(ask(one, "7"), ask(other, "8"))
        return one, other

    assert asyncio.run(both()) == ([7], [8])
