"""How requests are paced: number in flight, shared pauses, waiting and giving up, on a clock that jumps.

Sweeps against servers that enforce limits are in test_pacing_sweeps.py.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niah.backends.rates import RateLimit
from niah.run.limits import Stopped
from niah.run.pacing import Pacer
from tests.bucket_server import run_virtually, virtual_now

PLENTY = RateLimit(limit_requests=50, remaining_requests=50, reset_requests_seconds=0)


def paced(main: Callable[[Pacer], Awaitable[Any]], **options: Any) -> Any:
    """The result of `main` with a pacer on the jumping clock; no task may be left at its end."""

    async def run() -> Any:
        pacer = Pacer(**{"most": 64, "now": virtual_now, "jitter": lambda: 0.5} | options)
        result = await main(pacer)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert pacer.in_flight == 0
        return result

    return run_virtually(run())


async def succeed(pacer: Pacer, tokens: float = 1, seconds: float = 1.0, limit: RateLimit | None = None) -> float:
    """One request that goes well: when it went out."""
    async with pacer.turn(tokens) as turn:
        at = virtual_now()
        await asyncio.sleep(seconds)
        turn.observed(limit)
        turn.succeeded()
    return at


async def refuse(pacer: Pacer, wait: float | None = None, *, seconds: float = 0.1, limited: bool = False) -> None:
    async with pacer.turn(1) as turn:
        await asyncio.sleep(seconds)
        turn.overloaded(wait, limited=limited, why="busy")


def test_it_starts_low_and_grows_by_one_a_window():
    async def main(pacer: Pacer) -> list[int]:
        times = await asyncio.gather(*(succeed(pacer) for _ in range(4 + 5 + 6 + 6)))
        return [times.count(float(second)) for second in range(4)]

    assert paced(main, most=6) == [4, 5, 6, 6]


def test_doubling_until_the_first_overload():
    async def main(pacer: Pacer) -> tuple[list[int], int]:
        times = await asyncio.gather(*(succeed(pacer) for _ in range(4 + 8 + 16 + 20)))
        await refuse(pacer, 0.5)
        return [times.count(float(second)) for second in range(4)], pacer.allowed

    assert paced(main, most=20, doubling=True) == ([4, 8, 16, 20], 10)


def test_windows_that_were_not_full_prove_nothing():
    async def main(pacer: Pacer) -> int:
        for _ in range(20):
            await asyncio.gather(*(succeed(pacer) for _ in range(3)))
        return pacer.allowed

    assert paced(main) == 4


def test_overload_halves_once_a_round_trip_and_never_below_one():
    async def main(pacer: Pacer) -> list[int]:
        allowed: list[int] = []
        for _ in range(5):
            await asyncio.gather(*(refuse(pacer, 0.5, seconds=2.0) for _ in range(pacer.allowed)))
            allowed.append(pacer.allowed)
        return allowed

    assert paced(main, start=16) == [8, 4, 2, 1, 1]


def test_one_pause_for_all_and_then_not_all_at_once():
    async def main(pacer: Pacer) -> list[float]:
        await succeed(pacer, seconds=2.0)
        await refuse(pacer, 30.0)
        assert pacer.waiting() == "waiting 30 s: busy"
        return sorted(await asyncio.gather(*(succeed(pacer) for _ in range(4))))

    times = paced(main, start=8)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert times[0] == pytest.approx(2.0 + 0.1 + 30.0)
    assert all(0.05 < gap <= 1.0 for gap in gaps)


def test_unsaid_pauses_double_until_something_goes_through():
    async def main(pacer: Pacer) -> list[float]:
        waited: list[float] = []
        for outcome in (refuse, refuse, refuse, succeed, refuse):
            before = virtual_now()
            async with pacer.turn(1):
                waited.append(round(virtual_now() - before, 3))
            await outcome(pacer, seconds=0.0)
        before = virtual_now()
        await succeed(pacer)
        return [*waited, round(virtual_now() - before - 1.0, 3)]

    assert [round(wait) for wait in paced(main)] == [0, 1, 2, 4, 0, 1]


def test_nobody_is_paused_for_hours():
    async def main(pacer: Pacer) -> float:
        await refuse(pacer, 5000.0)
        return await succeed(pacer)

    assert paced(main, longest_wait=120.0) == pytest.approx(120.1)


def test_leaving_without_a_word_and_saying_it_twice_count_for_nothing():
    async def main(pacer: Pacer) -> int:
        async with pacer.turn(1) as turn:
            turn.overloaded(0.1)
            turn.overloaded(99.0)
            turn.succeeded()
        for _ in range(9):
            with pytest.raises(ZeroDivisionError):
                async with pacer.turn(1):
                    raise ZeroDivisionError
        assert virtual_now() < 3
        return pacer.allowed

    assert paced(main) == 2


def test_stop_ends_all_waiting_at_once_and_lets_nothing_new_through():
    async def main() -> tuple[list[Any], float]:
        stop = asyncio.Event()
        pacer = Pacer(most=2, now=virtual_now, stop=stop)
        asyncio.get_running_loop().call_later(3.0, stop.set)
        outcomes = await asyncio.gather(*(succeed(pacer, seconds=10) for _ in range(6)), return_exceptions=True)
        with pytest.raises(Stopped):
            await succeed(pacer)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return outcomes, virtual_now()

    outcomes, ended = run_virtually(main())
    assert outcomes[:2] == [0.0, 0.0]
    assert [type(outcome) for outcome in outcomes[2:]] == [Stopped] * 4
    assert ended == 10.0


def test_stop_ends_a_pause():
    async def main() -> float:
        stop = asyncio.Event()
        pacer = Pacer(most=2, now=virtual_now, stop=stop)
        await refuse(pacer, 100.0)
        asyncio.get_running_loop().call_later(3.0, stop.set)
        with pytest.raises(Stopped):
            await succeed(pacer)
        return virtual_now()

    assert run_virtually(main()) == pytest.approx(3.1)


@pytest.mark.parametrize("when", ["waiting", "in flight", "just let through"])
def test_cancelled_turns_make_room(when: str):
    async def main(pacer: Pacer) -> float:
        first, second, third = (asyncio.create_task(succeed(pacer, seconds=5)) for _ in range(3))
        await asyncio.sleep(1)
        if when == "just let through":
            first.cancel()
            await asyncio.sleep(0)  # the first leaves, which lets the second through, which does not run yet
            second.cancel()
        elif when == "waiting":
            second.cancel()
        else:
            first.cancel()
        await asyncio.gather(first, second, third, return_exceptions=True)
        return third.result()

    assert paced(main, most=1) == {"waiting": 5.0, "in flight": 6.0, "just let through": 1.0}[when]


def test_a_cancelled_pause_leaves_no_task():
    async def main(pacer: Pacer) -> None:
        await refuse(pacer, 50.0)
        waiting = [asyncio.create_task(succeed(pacer)) for _ in range(3)]
        await asyncio.sleep(1)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    paced(main)


@pytest.mark.parametrize("heard", [None, PLENTY])
def test_a_dropped_request_was_not_counted_and_holds_up_nobody(heard: RateLimit | None):
    async def main(pacer: Pacer) -> tuple[float, float, int, float]:
        async with pacer.turn(500) as turn:
            turn.observed(heard)
            turn.dropped()
            turn.overloaded(30.0)  # it has been settled
        return pacer.requests.spent, pacer.tokens.spent, pacer.allowed, pacer.pause_seconds()

    assert paced(main) == (0.0, 0.0, 4, 0.0)


def test_what_is_waited_for_is_told():
    """Nothing while requests go; then the limit that holds them back, or the pause and its reason."""

    async def main(pacer: Pacer) -> list[str]:
        said = [pacer.waiting()]
        limit = RateLimit(limit_requests=50, remaining_requests=40, limit_tokens=200_000, remaining_tokens=20_000)
        async with pacer.turn(42_000) as turn:
            turn.observed(limit)
            said.append(pacer.waiting())
            later = asyncio.create_task(succeed(pacer, tokens=120_000))
            await asyncio.sleep(0)
            said.append(pacer.waiting())
            turn.overloaded(40.0)
            said.append(pacer.waiting())
        await later
        return [*said, pacer.waiting()]

    assert paced(main) == [
        "",
        "",
        "waiting 31 s: limit of 200,000 tokens a minute",
        "waiting 40 s: rate limit",
        "",
    ]


def test_a_turn_costs_next_to_nothing():
    """3.2 µs on the machine where this was written; the bound leaves room for busy ones. In a process that nobody measures the coverage of,
    which alone costs several times as much.
    """
    code = """if True:
        import asyncio, time
        from niah.run.pacing import Pacer

        async def microseconds():
            pacer, times, began = Pacer(most=64), 5000, time.process_time()
            for _ in range(times):
                async with pacer.turn(2000) as turn:
                    turn.succeeded()
            return (time.process_time() - began) / times * 1e6

        print(min(asyncio.run(microseconds()) for _ in range(3)))
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert float(done.stdout) < 30


def within(grants: list[tuple[float, float]], limit: float) -> bool:
    """Whether no span of time holds more than the documented slack: a minute's burst, and the excess of one large request."""
    for first in range(len(grants)):
        total = 0.0
        for at, amount in grants[first:]:
            if total + min(amount, limit) > limit * (1 + (at - grants[first][0]) / 60) + 1e-3:
                return False
            total += amount
    return True


REQUEST = st.tuples(
    st.floats(0, 20),  # when it comes
    st.integers(0, 3000),  # tokens
    st.floats(0, 9),  # how long it takes
    st.sampled_from(["success", "success", "success", "overload", "limit", "error", "silence", "cancel"]),
    st.one_of(st.none(), st.floats(0, 40)),  # the wait that is asked for
)


@settings(deadline=None, max_examples=100)
@given(st.lists(REQUEST, min_size=3, max_size=40), st.integers(1, 9), st.integers(1, 300), st.integers(50, 2000), st.booleans())
def test_never_too_many_never_too_much_and_everyone_goes(requests: list[Any], most: int, per_minute: int, tokens: int, doubling: bool):
    limit = RateLimit(limit_requests=per_minute, limit_tokens=tokens)
    granted: list[tuple[float, float]] = []
    order: list[int] = []
    numbers = iter(range(len(requests)))

    async def one(pacer: Pacer, request: Any) -> None:
        comes, amount, seconds, outcome, wait = request
        await asyncio.sleep(comes)
        number = next(numbers)
        async with pacer.turn(amount) as turn:
            assert pacer.in_flight <= pacer.allowed <= max(most, 1)
            granted.append((virtual_now(), amount))
            order.append(number)
            if amount > tokens:
                assert pacer.in_flight == 1
            turn.observed(limit)
            await asyncio.sleep(seconds)
            if outcome == "success":
                turn.succeeded()
            elif outcome in ("overload", "limit"):
                turn.overloaded(wait, limited=outcome == "limit")
            elif outcome == "error":
                raise ValueError

    async def main(pacer: Pacer) -> None:
        async with pacer.turn(0) as turn:
            turn.observed(limit)
        tasks = [asyncio.create_task(one(pacer, request)) for request in requests]
        for task, (_, _, seconds, outcome, _) in zip(tasks, requests, strict=True):
            if outcome == "cancel":
                asyncio.get_running_loop().call_later(seconds * 3, task.cancel)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(each) for each in outcomes} <= {type(None), ValueError, asyncio.CancelledError}, outcomes

    paced(main, most=most, start=min(4, most), doubling=doubling)
    asked = sum(outcome != "cancel" for *_, outcome, _ in requests)
    assert len(granted) >= asked
    assert order == sorted(order)
    assert within([(at, 1.0) for at, _ in granted], per_minute)
    assert within(granted, tokens)
