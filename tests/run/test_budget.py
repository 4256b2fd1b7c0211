"""Money: caps that hold against the server's own log, the question before a dear sweep, the plan's bill. `pytest tests/run/test_budget.py`"""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from niah.backends.models import capabilities
from niah.config import load_experiment
from niah.errors import BudgetError, RetryableError
from niah.run.budget import Budget, Meter, Spend
from niah.run.money import estimate
from niah.trial import Prompt, Reply, Sampling, Usage
from tests.chat_server import Answer, Asked, ChatServer, completion, failure
from tests.run.command import answered, found, here, lines, write_config

PRICE = '[models."server/m"]\nwindow_tokens = 100000\nprice = {input = 100.0, output = 400.0}\n'
DOLLARS_A_TOKEN, DOLLARS_AN_OUTPUT_TOKEN = 100 / 1e6, 400 / 1e6
SAMPLING = {"max_output_tokens": 20}


@pytest.fixture
def priced(folder: Path) -> dict[str, str]:
    """server/m costs $100 a million input tokens and $400 a million output tokens."""
    path = folder / "prices.toml"
    path.write_text(PRICE, encoding="utf-8")
    return {"NIAH_MODELS": str(path)}


class Billing:
    """A server that counts tokens in its own way and keeps the bill."""

    def __init__(self, tokens_a_character: float = 0.31):
        self.tokens_a_character = tokens_a_character
        self.dollars = 0.0
        self.tokens = 0

    def answer(self, asked: Asked) -> Answer:
        given, output = round(len(asked.user) * self.tokens_a_character) + 17, 12 + asked.number % 8
        self.dollars += given * DOLLARS_A_TOKEN + output * DOLLARS_AN_OUTPUT_TOKEN
        self.tokens += given + output
        return completion(found(asked), usage={"prompt_tokens": given, "completion_tokens": output})


@pytest.mark.parametrize("concurrency", ["1", "16"])
def test_the_bill_never_passes_the_cap_and_everything_paid_is_kept(folder: Path, priced: dict[str, str], concurrency: str) -> None:
    """A cap of $1: the sum priced from the server's log is at most $1, exit 4, and a higher cap goes on with the missing trials only."""
    config = write_config(folder, reshuffles=12, sampling=SAMPLING)
    bill = Billing()
    with ChatServer(bill.answer) as server:
        words = ("sweep", config, "--base-url", server.url, "--out", "run", "--concurrency", concurrency)
        done = here(*words, "--max-cost", "1", **priced)
        assert done.returncode == 4, done.stdout
        assert "--max-cost $1.00" in done.stderr
        assert 0.85 < bill.dollars <= 1.0
        assert len(answered(folder / "run")) == len(server.log)
        again = here(*words, "--max-cost", "1", **priced)
        assert again.returncode == 4
        assert bill.dollars <= 1.0
        done = here(*words, "--max-cost", "50", "--yes", **priced)
        assert done.returncode == 0, done.stderr
        assert set(server.times_asked.values()) == {1}
    assert "$" in done.stdout


def test_a_cap_on_tokens_holds_without_prices(folder: Path) -> None:
    config = write_config(folder, reshuffles=12, sampling=SAMPLING)
    bill = Billing()
    with ChatServer(bill.answer) as server:
        done = here("sweep", config, "--base-url", server.url, "--out", "run", "--max-tokens", "10k")
    assert done.returncode == 4
    assert "--max-tokens 10,000" in done.stderr
    assert 8_000 < bill.tokens <= 10_000


def test_answers_that_never_came_count_against_the_cap(folder: Path, priced: dict[str, str]) -> None:
    """The server bills, then the connection breaks: what may be charged is held as spent, in a later session too."""
    config = write_config(folder, reshuffles=12, sampling=SAMPLING)
    bill = Billing()

    def answer(asked: Asked) -> Answer:
        billed = bill.answer(asked)
        return Answer(body=json.dumps(billed.body), cut=20) if asked.number % 3 == 2 else billed

    with ChatServer(answer) as server:
        words = ("sweep", config, "--base-url", server.url, "--out", "run", "--concurrency", "2", "--max-cost", "1")
        assert here(*words, **priced).returncode == 4
        assert here(*words, **priced).returncode == 4
    assert bill.dollars <= 1.0
    assert json.loads((folder / "run" / "lost.json").read_text(encoding="utf-8"))["dollars"] > 0


def test_a_cap_in_dollars_needs_a_price(folder: Path) -> None:
    config = write_config(folder)
    with ChatServer() as server:
        done = here("sweep", config, "--base-url", server.url, "--out", "run", "--max-cost", "1")
    assert done.returncode == 2
    assert "the price of server/m is unknown" in done.stderr
    assert server.log == []


def test_a_dear_sweep_asks_first_and_in_ci_needs_yes(folder: Path, priced: dict[str, str]) -> None:
    """More than $5: without a terminal --yes or a low cap is needed, before anything is asked."""
    config = write_config(folder, reshuffles=40, sampling=SAMPLING)
    bill = Billing()
    with ChatServer(bill.answer) as server:
        words = ("sweep", config, "--base-url", server.url, "--out", "run")
        done = here(*words, **priced)
        assert done.returncode == 2
        assert "this sweep may cost $" in done.stderr
        assert "--yes" in done.stderr
        assert server.log == []
        assert here(*words, "--yes", "--reshuffles", "1", **priced).returncode == 0


def test_the_plan_knows_the_bill(folder: Path, priced: dict[str, str]) -> None:
    """Live, cached and in sum; unknown is unknown and never 0."""
    config = write_config(folder, sampling=SAMPLING)
    told = json.loads(here("plan", config, "--base-url", "http://127.0.0.1:1/v1", "--format", "json", **priced).stdout)
    entry = told["models"]["server/m"]
    assert entry["trials"] == 18
    assert entry["input_tokens"] == (300 + 500) * 3 * 3
    assert entry["output_tokens"] == 18 * 20
    assert entry["live_dollars"] == pytest.approx(7200 * DOLLARS_A_TOKEN + 360 * DOLLARS_AN_OUTPUT_TOKEN)
    unknown = json.loads(here("plan", config, "--base-url", "http://127.0.0.1:1/v1", "--format", "json").stdout)
    assert unknown["models"]["server/m"]["live_dollars"] is None
    assert any("price of server/m" in line for line in unknown["unknown"])
    text = here("plan", config, "--base-url", "http://127.0.0.1:1/v1", "--rate", "1k").stdout
    assert "unknown" in text
    assert "at 1,000 tokens a minute: 8 minutes" in text  # 7,200 of input and 18 answers of 20


def test_cacheable_tokens_are_those_in_front_of_the_needle(folder: Path) -> None:
    """The deepest trial of a reshuffle pays for its text; the others find theirs in the cache."""
    known = capabilities("openai/gpt-4.1")
    made = load_experiment("quickstart", {"lengths": [4000, 8000], "depths": [0, 0.5, 1], "reshuffles": 2})
    bill = estimate(made, 1, known)
    assert bill.cached_tokens == 2 * (4000 + 4000 + 2000)
    assert bill.live_dollars is not None
    assert bill.cached_dollars is not None
    assert bill.cached_dollars < bill.live_dollars
    own = estimate(made.model_copy(update={"haystack": "independent"}), 1, known)
    assert (own.cached_tokens, own.cached_dollars) == (0, own.live_dollars)


@pytest.mark.parametrize("model", ["openai/gpt-5.6-sol", "anthropic/claude-haiku-4-5"])
def test_writing_a_cache_is_in_the_plan(model: str) -> None:
    """OpenAI writes every prompt unasked at 1.25 times the price; Anthropic only what stands in front of the deepest needle."""
    made = load_experiment("quickstart", {"lengths": [16_000, 32_000], "depths": [0, 0.5, 1], "reshuffles": 2})
    known, backend, unasked = capabilities(model), model.partition("/")[0], model.startswith("openai")
    bill, prices = estimate(made, 1, known, backend), known.prices
    assert prices is not None and prices.input and prices.cache_read and prices.cache_write and bill.live_dollars
    read = 16_000 + 16_000 + 8_000  # what stands in front of all needles but the deepest
    written = 32_000 + (3 * 48_000 - 32_000 - read if unasked else 0)
    dearer = written * (prices.cache_write - prices.input) - read * (prices.input - prices.cache_read)
    assert bill.cached_dollars == pytest.approx(bill.live_dollars + 2 * dearer / 1e6)
    alone = estimate(made.model_copy(update={"haystack": "independent"}), 1, known, backend)
    plain = 2 * 3 * 48_000 * (prices.cache_write - prices.input) / 1e6 if unasked else 0
    assert alone.cached_dollars == pytest.approx((alone.live_dollars or 0) + plain)


def test_a_batch_costs_what_batches_cost() -> None:
    """The bound and the bill of a request at half the price; where no price of batches is known, at the live one."""
    known, reply = capabilities("openai/gpt-4.1"), Reply(text="", usage=Usage(input=100, output=20))
    live, batch = Meter(known), Meter(known, batch=True)
    assert 0 < batch.most(prompt()).dollars == pytest.approx(live.most(prompt()).dollars / 2)
    assert 0 < batch.cost(100, reply, 50).dollars == pytest.approx(live.cost(100, reply, 50).dollars / 2)
    unknown = replace(known, batch=None)
    assert Meter(unknown, batch=True).most(prompt()) == Meter(unknown).most(prompt())


def test_what_is_answered_is_not_in_the_question(folder: Path, priced: dict[str, str]) -> None:
    """A dear sweep that is nearly done goes on without --yes: what is left to pay is little; a plan of all would not."""
    config = write_config(folder, reshuffles=20, sampling=SAMPLING)
    bill = Billing()
    with ChatServer(bill.answer) as server:
        words = ("sweep", config, "--base-url", server.url, "--out", "run")
        assert here(*words, **priced).returncode == 2
        server.answer = lambda asked: failure(400) if asked.number >= 100 and asked.number % 7 == 0 else bill.answer(asked)
        assert here(*words, "--yes", **priced).returncode == 3
        server.answer = bill.answer
        left = len(server.log)
        done = here(*words, **priced)
        assert done.returncode == 0, done.stderr
        assert 0 < len(server.log) - left < 10


def test_a_sweeps_line_becomes_a_plan(folder: Path, priced: dict[str, str]) -> None:
    """Every option of a sweep is taken; caps are held against the plan, and a config's cap is too."""
    config = write_config(folder, sampling=SAMPLING)
    words = (config, "--base-url", "http://127.0.0.1:1/v1")
    done = here("plan", *words, "--max-cost", "0.5", "--max-tokens", "1M", "--yes", "--concurrency", "3", "--out", "run", **priced)
    assert done.returncode == 0, done.stderr
    assert "--max-cost $0.50: the plan, $0.8640 live, is above it: the sweep would stop after about 58% of it" in done.stdout
    assert "--max-tokens 1,000,000: the plan, 7,560 tokens, stays below it" in done.stdout
    assert "stays below it" in here("plan", *words, "--max-cost", "9", **priced).stdout
    assert "--max-cost $9.00 cannot be kept: a price is unknown" in here("plan", *words, "--max-cost", "9").stdout
    capped = write_config(folder, name="capped", sampling=SAMPLING, max_cost=0.1)
    told = json.loads(here("plan", capped, *words[1:], "--format", "json", **priced).stdout)
    assert len(told["caps"]) == 1
    batch = here("plan", *words, "--batch", **priced)
    assert batch.returncode == 2
    assert "has no batches" in batch.stderr
    openai = here("plan", config, "--model", "openai/gpt-4.1", "--batch", "--no-wait", "--max-cost", "5")
    assert "in batches, stays below it" in openai.stdout


def test_models_with_different_cues_are_said_to_be_not_comparable(folder: Path) -> None:
    """Plan, sweep and table: `auto` gave one model a prefill and the other none."""
    config = write_config(folder, models=["server/a", "server/b"], lengths=[300], reshuffles=1)
    (folder / "own.toml").write_text('[models."server/a"]\nprefill = true\n', encoding="utf-8")
    own = {"NIAH_MODELS": str(folder / "own.toml")}
    warning = "the models were asked with different cues (server/a: prefill; server/b: user): their results are not comparable"
    with ChatServer(found) as server:
        assert f"warning: {warning}" in here("plan", config, "--base-url", server.url, **own).stdout
        done = here("sweep", config, "--base-url", server.url, "--out", "run", **own)
        assert done.returncode == 0, done.stderr
        assert f"warning: {warning}" in done.stdout
        assert "are not comparable" in " ".join(done.stdout[done.stdout.index("effective length: ") :].split())
        same = here("sweep", config, "--base-url", server.url, "--out", "same", "--cue", "user", **own)
    assert "comparable" not in same.stdout


def prompt(tokens: int = 100) -> Prompt:
    return Prompt(
        system="", context="x", question="?", cue="", cue_mode="off", layout="{context}{question}", tokens=tokens, placements=(),
        sampling=Sampling(max_output_tokens=50),
    )  # fmt: skip


def test_a_request_waits_while_those_in_flight_may_still_give_room_back() -> None:
    """Two requests fit only one after the other, a third not at all."""

    async def run() -> list[str]:
        budget, meter, told = Budget(max_tokens=500), Meter(capabilities("server/x")), list[str]()

        async def one(name: str) -> None:
            try:
                async with budget.hold(meter, prompt()) as settle:
                    told.append(f"{name} goes")
                    await asyncio.sleep(0.01)
                    settle(Reply(text="", usage=Usage(input=60, output=10)))
            except BudgetError:
                told.append(f"{name} stops")

        await asyncio.gather(one("first"), one("second"))
        assert budget.spent == Spend(tokens=140)
        budget.max_tokens = 200
        await one("third")
        return told

    assert asyncio.run(run()) == ["first goes", "second goes", "third stops"]


@pytest.mark.parametrize(("billed", "spent"), [(True, 378), (False, 0)])
def test_a_failure_costs_what_may_have_been_billed(billed: bool, spent: int) -> None:
    lost: list[Spend] = []

    async def run() -> Budget:
        budget = Budget(max_tokens=1000, lost=lost.append)
        with pytest.raises(RetryableError):
            async with budget.hold(Meter(capabilities("server/x")), prompt()):
                raise RetryableError("gone", kind="connection", billed=billed)
        return budget

    assert asyncio.run(run()).spent.tokens == spent
    assert bool(lost) is billed


def test_the_deepest_trial_of_a_reshuffle_goes_ahead_of_the_others(folder: Path) -> None:
    """Prompt caches: nobody of a reshuffle is asked before its longest shared text was answered, and all trials are asked once."""
    config = write_config(folder, lengths=[300, 500, 900], depths=[0, 0.5, 1], reshuffles=4)
    order: list[tuple[str, int]] = []

    def answer(asked: Asked) -> Answer:
        order.append((asked.user[:60] if not asked.user.startswith("The ") else "", len(asked.user)))
        return completion(found(asked), usage={"prompt_tokens": len(asked.user) // 4, "completion_tokens": 4}, delay=0.03)

    with ChatServer(answer) as server:
        done = here("sweep", config, "--base-url", server.url, "--out", "run", "--concurrency", "8")
        assert done.returncode == 0, done.stderr
        assert set(server.times_asked.values()) == {1}
        assert len(server.log) == 36
    trials = {line["key"]: line["trial"] for line in lines(folder / "run")}
    first: dict[int, tuple[int, float]] = {}
    for trial in trials.values():
        first.setdefault(trial["reshuffle"], (trial["length"], trial["depths"][0]))
    assert set(first.values()) == {(900, 1.0)}


def test_failures_do_not_hold_up_a_reshuffle(folder: Path) -> None:
    """The one that goes ahead overflows: the others are asked all the same."""
    config = write_config(folder, lengths=[300, 900], depths=[0, 1], reshuffles=2)
    overflow = {"error": {"message": "maximum context length is 600 tokens", "code": "context_length_exceeded"}}

    def answer(asked: Asked) -> Answer:
        return failure(400, overflow) if len(asked.user) > 3000 else completion(found(asked))

    with ChatServer(answer) as server:
        done = here("sweep", config, "--base-url", server.url, "--out", "run")
    assert done.returncode == 0, done.stderr
    assert len(answered(folder / "run")) == 4
