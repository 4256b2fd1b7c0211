"""Sweeps against a server that enforces 50 requests and 200,000 tokens a minute: on a jumping clock, and over real HTTP.

What counts: from when the first minute's burst is used up, 90% of the tighter limit; and under 2% of the requests refused.
"""

import asyncio
import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import httpx
import pytest

from niah.backends.rates import RateLimit, rate_limit, wait_seconds
from niah.run.buckets import DAY, Bucket, Guesses, Mark, Said
from niah.run.pacing import Pacer
from tests.bucket_server import EPOCH, STYLES, BucketServer, RateLimiter, Style, run_virtually, virtual_now

SIZES = {"requests bind": (500, 4000), "tokens bind": (1000, 14_000), "both bind": (1000, 7000)}


def sizes(bind: str, seed: int = 0, count: int = 300) -> list[int]:
    chance = random.Random(seed)
    return [chance.randint(*SIZES[bind]) for _ in range(count)]


def sweep(
    limiter: RateLimiter, tokens: Sequence[int], *, seconds: float = 2.0, busy: Sequence[tuple[float, float]] = (), **options: Any
) -> Pacer:
    """Ask for all of `tokens` until each is answered; within the spans `busy` the server answers 529."""
    chance = random.Random(1)

    async def ask(pacer: Pacer, amount: int) -> None:
        while True:
            async with pacer.turn(amount) as turn:
                at = virtual_now()
                if any(begin <= at < end for begin, end in busy):
                    limiter.refused.append(at)
                    await asyncio.sleep(0.05)
                    turn.overloaded(limited=False)
                    continue
                status, headers = limiter.ask(amount, at)
                await asyncio.sleep(0.05 if status == 429 else seconds * chance.uniform(0.5, 1.5))
                now = EPOCH + timedelta(seconds=virtual_now())
                turn.observed(rate_limit(headers, now))
                if status == 200:
                    turn.succeeded()
                    return
                turn.overloaded(wait_seconds(headers, None, now))

    async def main() -> Pacer:
        pacer = Pacer(**{"most": 64, "now": virtual_now, "jitter": lambda: 0.5} | options)
        await asyncio.gather(*(ask(pacer, amount) for amount in tokens))
        return pacer

    return run_virtually(main())


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("bind", SIZES)
def test_a_sweep_uses_the_limit_and_is_hardly_refused(style: Style, bind: str):
    for seed in range(3):
        limiter = RateLimiter(style=style)
        sweep(limiter, sizes(bind, seed))
        assert len(limiter.granted) == 300
        assert limiter.throughput() >= 0.9
        assert limiter.refused_share() < 0.02


@pytest.mark.parametrize("style", ["openai", "anthropic"])
def test_with_headers_nothing_is_refused(style: Style):
    limiter = RateLimiter(style=style)
    sweep(limiter, sizes("both bind"), seconds=0.3)
    assert limiter.refused == []


@pytest.mark.parametrize(("style", "seconds"), [("openai", 30.0), ("bare", 30.0), ("bare", 8.0), ("bare", 0.3)])
def test_slow_and_fast_models(style: Style, seconds: float):
    limiter = RateLimiter(style=style)
    sweep(limiter, sizes("both bind"), seconds=seconds, doubling=True)
    assert limiter.throughput() >= 0.9
    assert limiter.refused_share() < 0.04  # 30 fast requests were on their way at the first refusal


@pytest.mark.parametrize("style", ["openai", "anthropic"])
def test_a_server_that_counts_more_tokens_than_we_do(style: Style):
    limiter = RateLimiter(style=style, factor=1.3)
    pacer = sweep(limiter, sizes("both bind"))
    assert limiter.throughput() >= 0.9
    assert limiter.refused_share() < 0.02
    assert pacer.tokens.scale == pytest.approx(1.3, rel=0.1)


@pytest.mark.parametrize("style", ["openai", "anthropic"])
def test_limits_that_come_back_all_at_once(style: Style):
    limiter = RateLimiter(style=style, windows=True)
    sweep(limiter, sizes("both bind"))
    assert limiter.throughput() >= 0.8
    assert limiter.refused_share() < 0.02


@pytest.mark.parametrize("style", STYLES)
def test_prompts_larger_than_the_limit_go_alone_and_others_go_on(style: Style):
    limiter = RateLimiter(style=style)
    sweep(limiter, [250_000 if number % 30 == 7 else 3000 for number in range(90)])
    assert len(limiter.granted) == 90
    assert sum(tokens > 200_000 for _, tokens in limiter.granted) == 3
    assert limiter.refused_share() < 0.06


@pytest.mark.parametrize("style", STYLES)
def test_a_key_whose_minute_others_have_used_up(style: Style):
    limiter = RateLimiter(style=style)
    for _ in range(50):
        limiter.ask(4000, 0.0)
    limiter.granted.clear()
    sweep(limiter, sizes("both bind"))
    assert limiter.throughput() >= 0.9
    assert limiter.refused_share() < 0.04


def test_a_server_that_is_busy_for_a_while_is_left_in_peace():
    limiter = RateLimiter(requests=6000, tokens=1e9)
    sweep(limiter, [1000] * 3000, seconds=1.0, busy=[(5.0, 45.0), (60.0, 62.0)], doubling=True)
    assert len(limiter.granted) == 3000
    assert len(limiter.refused) < 150  # 64 were in flight; 40 seconds at full speed would be thousands
    assert limiter.granted[-1][0] < 200


def test_a_days_limit_is_no_minutes_limit():
    """Groq and the lowest tiers of OpenAI speak of requests a day: the time to the reset tells."""
    bucket, spent = Bucket(), 0.0
    for number in range(1, 101):
        bucket.take(1.0)
        spent += 1
        bucket.observe(Said(200, 200 - number, number * DAY / 200), Mark(number * 1.0, spent), number * 1.0)
    assert bucket.period == DAY
    assert bucket.wait(101, 100.0) == pytest.approx(DAY / 200, rel=0.01)


def test_who_names_no_limit_has_at_least_what_remains():
    bucket = Bucket()
    bucket.take(1.0)
    bucket.observe(Said(None, 9, None), Mark(0.0, 1.0), 0.0)
    assert bucket.limit == 9
    bucket.observe(Said(None, 0, None), Mark(0.0, 1.0), 0.0)
    assert bucket.wait(1.0, 0.0) == pytest.approx(60 / 9, abs=1)


def test_guesses_end_where_headers_begin():
    async def main() -> tuple[float | None, float | None]:
        pacer = Pacer(most=64, now=virtual_now)
        for number in range(12):
            async with pacer.turn(100) as turn:
                if number == 10:
                    turn.overloaded(1.0)
                    assert pacer.tokens.limit is not None
                elif number == 11:
                    turn.observed(RateLimit(limit_requests=70, remaining_requests=30))
                else:
                    turn.succeeded()
        return pacer.requests.limit, pacer.tokens.limit

    assert run_virtually(main()) == (70, None)


@pytest.mark.parametrize("style", STYLES)
def test_over_http(style: Style):
    limiter = RateLimiter(style=style)

    async def ask(client: httpx.AsyncClient, pacer: Pacer, server: BucketServer, tokens: int) -> None:
        while True:
            async with pacer.turn(tokens) as turn:
                response = await client.post(f"{server.url}/chat/completions", json={"tokens": tokens})
                now = EPOCH + timedelta(seconds=server.now())
                turn.observed(rate_limit(response.headers, now))
                if response.is_success:
                    turn.succeeded()
                    return
                turn.overloaded(wait_seconds(response.headers, response.json(), now))

    async def main(server: BucketServer) -> None:
        pacer = Pacer(most=64, now=server.now, sleep=server.sleep, jitter=lambda: 0.5)
        async with httpx.AsyncClient(timeout=30) as client:
            await asyncio.gather(*(ask(client, pacer, server, tokens) for tokens in sizes("both bind", seed=2)))

    with BucketServer(limiter, speed=25, seconds=5.0) as server:
        asyncio.run(main(server))
    assert len(limiter.granted) == 300
    assert limiter.throughput() >= 0.9
    # Without headers a few requests are out when the first refusal comes, and a busy machine's delays count twenty-five times here: the
    # virtual clock's tests above hold these styles to 2 %. At eighty times, a loaded machine failed here.
    assert limiter.refused_share() < (0.02 if style in ("openai", "anthropic") else 0.05)


def test_who_stands_behind_a_large_request_that_gives_up_goes_as_soon_as_it_fits():
    async def main() -> float:
        pacer = Pacer(most=64, now=virtual_now)
        async with pacer.turn(0) as turn:
            turn.observed(RateLimit(limit_tokens=600, remaining_tokens=0))
        large = asyncio.create_task(pacer.turn(600).__aenter__())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(2.0, large.cancel)
        async with pacer.turn(50):
            return virtual_now()

    assert run_virtually(main()) == pytest.approx(5.6)  # 5 seconds' tokens, and the 1% that is left alone


def test_refusals_of_one_burst_were_no_throughput():
    requests, tokens = Bucket(), Bucket()
    guesses = Guesses(requests, tokens)
    guesses.began(0.0)
    for bucket, amount in ((requests, 1.0), (tokens, 1000.0)):
        for _ in range(34):
            bucket.take(amount)
    for number in range(4):
        guesses.refused(1000.0, 30.0, fresh=number == 0)
    assert requests.limit == pytest.approx(20)  # 30 in the burst of a minute's depth and half a minute's refill
    assert tokens.limit == pytest.approx(20_000)
    for bucket, amount in ((requests, 1.0), (tokens, 1000.0)):
        for _ in range(11):
            bucket.take(amount)
    guesses.refused(1000.0, 60.0, fresh=True)
    assert requests.limit == pytest.approx(20)
