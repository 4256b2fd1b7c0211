"""Patience: which waits, how many tries, and what a stop does to a wait. No test here really waits."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from niah.errors import BadRequest, FatalError, RetryableError
from niah.run.limits import Patience, Stopped, patiently


def busy(wait: float | None = None, kind: str = "server") -> RetryableError:
    return RetryableError("busy", kind=kind, wait_seconds=wait)


def test_waits_double_up_to_the_longest_with_full_jitter() -> None:
    """The jitter scales the whole wait: 0 waits not at all, 1 waits 1, 2, 4, 8 ... up to 30 seconds."""
    longest = Patience(attempts=12, jitter=lambda: 1.0)
    assert [longest.wait_seconds(busy(), tries) for tries in range(1, 9)] == [1, 2, 4, 8, 16, 30, 30, 30]
    assert Patience(jitter=lambda: 0.0).wait_seconds(busy(), 3) == 0
    assert Patience(jitter=lambda: 0.5).wait_seconds(busy(), 3) == 2


def test_the_number_of_tries_is_limited_and_smaller_for_a_server_that_cannot_be_reached() -> None:
    """None means: give up."""
    patience = Patience(attempts=6, attempts_to_connect=3)
    assert patience.wait_seconds(busy(), 5) is not None
    assert patience.wait_seconds(busy(), 6) is None
    assert patience.wait_seconds(busy(kind="connection"), 2) is not None
    assert patience.wait_seconds(busy(kind="connection"), 3) is None
    assert patience.wait_seconds(busy(kind="rate_limit"), 29) is not None
    assert patience.wait_seconds(busy(kind="rate_limit"), 30) is None


@given(asked=st.floats(min_value=0.001, max_value=119), jitter=st.floats(min_value=0, max_value=1), tries=st.integers(1, 5))
def test_a_wait_that_the_server_asks_for_is_never_cut_short(asked: float, jitter: float, tries: int) -> None:
    """At least what was asked, and not much more."""
    wait = Patience(jitter=lambda: jitter).wait_seconds(busy(asked, "rate_limit"), tries)
    assert wait is not None
    assert asked <= wait <= asked + 0.5


@pytest.mark.parametrize("asked", [121.0, 3600.0, float("inf")])
def test_a_wait_beyond_all_patience_gives_up_at_once(asked: float) -> None:
    """Hours are not waited for: the trial fails and can be asked again by a resume."""
    assert Patience().wait_seconds(busy(asked), 1) is None


def run(outcomes: list[object], patience: Patience, stop_set: bool = False) -> tuple[object, int]:
    """(Result or error, times asked) of a call that goes through some outcomes."""
    asked = 0

    async def ask() -> object:
        nonlocal asked
        asked += 1
        outcome = outcomes[min(asked, len(outcomes)) - 1]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def go() -> object:
        stop = asyncio.Event()
        if stop_set:
            stop.set()
        try:
            return await patiently(ask, patience, stop)
        except (Stopped, RetryableError, BadRequest, FatalError) as error:
            return error

    return asyncio.run(go()), asked


AT_ONCE = Patience(jitter=lambda: 0.0)


def test_only_retryable_errors_are_tried_again() -> None:
    """Success after failures; the last error after too many; every other error at once."""
    assert run([busy(), busy(), "fine"], AT_ONCE) == ("fine", 3)
    last = busy()
    assert run([busy(), busy(), busy(), busy(), busy(), last, "too late"], AT_ONCE) == (last, 6)
    for error in (BadRequest("no"), FatalError("no", kind="credentials")):
        assert run([error, "too late"], AT_ONCE) == (error, 1)


def test_a_stop_during_a_wait_ends_it() -> None:
    """A wait of 100 seconds ends when the stop comes; a stop that was there already lets no second try begin."""
    stopped, asked = run([busy(100.0)], AT_ONCE, stop_set=True)
    assert isinstance(stopped, Stopped)
    assert asked == 1

    async def stop_soon() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, stop.set)

        async def ask() -> None:
            raise busy(100.0)

        await patiently(ask, AT_ONCE, stop)

    began = time.monotonic()
    with pytest.raises(Stopped):
        asyncio.run(stop_soon())
    assert time.monotonic() - began < 10


def test_an_answer_counts_although_a_stop_was_asked_for_meanwhile() -> None:
    """What is in flight when the stop comes is finished and kept."""
    assert run(["fine"], AT_ONCE, stop_set=True) == ("fine", 1)


def test_rate_limits_and_other_trouble_are_counted_apart() -> None:
    """Six 429s leave all tries for a 500, and five 500s all for a 429; each has its own end."""
    limited, broken = busy(kind="rate_limit"), busy()
    patience = Patience(jitter=lambda: 0.0)
    assert run([*[limited] * 6, broken, "yes"], patience) == ("yes", 8)
    assert run([*[broken] * 5, *[limited] * 29, "yes"], patience) == ("yes", 35)
    assert run([*[limited] * 29, *[broken] * 6], patience)[1] == 35
    assert run([*[broken] * 5, *[limited] * 30], patience)[1] == 35
