"""What every request passes on its way out: one prompt's own trouble is not everybody's. Clocks that jump, and real sweeps."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niah.backends.fake import FakeBackend
from niah.backends.models import Capabilities
from niah.backends.rates import hear
from niah.errors import BadRequest, RetryableError
from niah.run.budget import Budget, Meter
from niah.run.gate import Gate
from niah.run.limits import Patience, patiently
from niah.run.pacing import Pacer
from niah.trial import Prompt, Reply, Sampling
from tests.bucket_server import run_virtually, virtual_now
from tests.chat_server import Answer, Asked, ChatServer, completion, failure
from tests.hurry import hurry
from tests.run.command import found, here, lines, write_config

LIMIT = 30_000


def prompt(tokens: int, name: str = "x") -> Prompt:
    return Prompt(
        system="", context=f"{name} {tokens}", question="?", cue="", cue_mode="off", layout="{context}{question}", tokens=tokens,
        placements=(), sampling=Sampling(),
    )  # fmt: skip


def gated(answer: object) -> tuple[Gate, Pacer, FakeBackend]:
    backend = FakeBackend(answer)  # pyright: ignore[reportArgumentType]
    pacer = Pacer(most=8, now=virtual_now, jitter=lambda: 0.5)
    return Gate(backend, pacer, Budget(), Meter(Capabilities(model="server/m"))), pacer, backend


def refusing_above(tokens: int, *, told: bool) -> object:
    async def answer(asked: Prompt) -> Reply:
        await asyncio.sleep(0.5)
        if told:
            hear({"x-ratelimit-limit-tokens": f"{tokens}", "x-ratelimit-remaining-tokens": f"{tokens}", "x-ratelimit-reset-tokens": "1s"})
        if asked.tokens > tokens:
            raise RetryableError("429", kind="rate_limit")
        return Reply(text="yes")

    return answer


async def outcomes(gate: Gate, sizes: list[int]) -> list[str]:
    """What became of prompts of these sizes, four at a time."""
    told, waiting, stop = dict[int, str](), iter(enumerate(sizes)), asyncio.Event()

    async def work() -> None:
        for number, size in waiting:
            asked = prompt(size, f"{number}")
            try:
                told[number] = (await patiently(lambda asked=asked: gate.ask(asked), Patience(jitter=lambda: 0.5), stop)).text
            except (BadRequest, RetryableError) as error:
                told[number] = f"{type(error).__name__}: {error}"

    await asyncio.gather(*(work() for _ in range(4)))
    return [told[number] for number in range(len(sizes))]


@pytest.mark.parametrize("told", [True, False])
def test_a_prompt_above_the_limit_fails_alone(told: bool) -> None:
    """Refused whenever it comes: it is given up with its reason long before 30 tries, the others lose neither time nor answers."""

    async def run(sizes: list[int]) -> tuple[list[str], int, float]:
        gate, pacer, backend = gated(refusing_above(LIMIT, told=told))
        began = virtual_now()
        results = await outcomes(gate, sizes)
        assert (pacer.requests.limit, pacer.tokens.limit) == (None, LIMIT if told else None), "nothing is left of what was guessed"
        return results, len(backend.asked), virtual_now() - began

    small = [100] * 300
    results, asked, seconds = run_virtually(run([*small[:20], 50_000, *small[20:], 50_010]))
    assert [result for result in results if result == "yes"] == ["yes"] * 300
    lost = [result for result in results if result != "yes"]
    assert len(lost) == 2
    assert all(result.startswith("BadRequest") and "0 tokens is refused again and again" in result for result in lost)
    assert asked <= 300 + 15
    _, _, undisturbed = run_virtually(run(small))
    assert seconds < undisturbed + 15


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0, 0.6), seed=st.integers(0, 1000))
def test_bad_times_are_no_reason_to_give_a_prompt_up(share: float, seed: int) -> None:
    """Refusals that have nothing to do with the size: every prompt gets its answer."""
    from random import Random

    draw = Random(seed)

    async def answer(_: Prompt) -> Reply:
        await asyncio.sleep(0.1)
        if draw.random() < share:
            raise RetryableError("429", kind="rate_limit")
        return Reply(text="yes")

    async def run() -> list[str]:
        gate, _, _ = gated(answer)
        return await outcomes(gate, [500] * 40)

    assert run_virtually(run()) == ["yes"] * 40


def test_a_refused_prompt_no_longer_slows_the_others() -> None:
    """After three refusals among answers the number in flight is not halved any more, whatever the prompt's size."""

    async def run() -> list[int]:
        async def answer(asked: Prompt) -> Reply:
            if asked.context.startswith("doomed"):
                raise RetryableError("429", kind="rate_limit", wait_seconds=0.01)
            return Reply(text="yes")

        gate, pacer, _ = gated(answer)
        allowed: list[int] = []
        for number in range(12):
            await gate.ask(prompt(1000, f"good {number}"))
            with pytest.raises(RetryableError):
                await gate.ask(prompt(10, "doomed"))
            allowed.append(pacer.allowed)
        return allowed

    allowed = run_virtually(run())
    assert allowed[:2] == [2, 1]
    assert len(set(allowed[3:])) == 1


def test_a_sweep_goes_on_without_the_length_that_never_goes_through(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest prompts are above the limit: exit 3, errors with the reason, all others answered, and no hundreds of requests."""
    hurry(monkeypatch, 500)
    config = write_config(folder, lengths=[300, 500, 1500], depths=[0, 1], reshuffles=4, haystack="independent")

    def answer(asked: Asked) -> Answer:
        return failure(429) if len(asked.user) > 5000 else completion(found(asked))

    with ChatServer(answer) as server:
        done = here("sweep", config, "--base-url", server.url, "--out", "run", "--concurrency", "8")
        asked = len(server.log)
    assert done.returncode == 3, done.stderr
    failed = [line for line in lines(folder / "run") if line["error"]]
    assert {line["trial"]["length"] for line in failed} == {1500}
    assert len(failed) == 8
    assert sum("leave this length out" in line["error"]["message"] for line in failed) >= 1
    assert len([line for line in lines(folder / "run") if line["reply"]]) == 16
    assert asked <= 16 + 8 * 15
