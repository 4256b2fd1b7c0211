"""Money: hand-computed bills, bounds that no request breaks."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from niah.backends.models import Caching, Capabilities, Prices, Tier, cost_dollars, most_dollars, packaged
from niah.trial import Usage
from tests.backends.facts_file import no_file_of_the_tester

__all__ = ["no_file_of_the_tester"]


OPUS = Capabilities(
    model="anthropic/claude-opus-5-5",
    prices=Prices(input=4, output=20, cache_read=0.2, cache_write=5, cache_write_1h=8),
    batch=Prices(input=2, output=10, cache_read=0.1, cache_write=2.5),
)


SOL = Capabilities(
    model="openai/gpt-6.1-sol",
    prices=Prices(input=2, output=10, cache_read=0.1, cache_write=2.5),
    tiers=(Tier(above_tokens=272_000, prices=Prices(input=4, output=15, cache_read=0.2, cache_write=5)),),
    batch=Prices(input=1, output=5, cache_read=0.05),
)


@pytest.mark.parametrize(
    ("usage", "known", "options", "dollars"),
    [
        (Usage(input=100_000, output=1_000), OPUS, {}, 0.42),
        (Usage(input=100_000, cached=90_000, output=1_000), OPUS, {}, 0.04 + 0.018 + 0.02),
        (Usage(input=100_000, output=1_000), OPUS, {"cache_write_tokens": 95_000}, 0.02 + 0.475 + 0.02),
        (Usage(input=100_000, output=1_000), OPUS, {"cache_write_tokens": 95_000, "caching": "1h"}, 0.02 + 0.76 + 0.02),
        (Usage(input=100_000, cached=90_000, output=1_000), OPUS, {"cache_write_tokens": 10_000}, 0.018 + 0.05 + 0.02),
        (Usage(input=100_000, cached=90_000, output=1_000), OPUS, {"batch": True}, 0.039),
        (Usage(input=100_000, output=0), OPUS, {"batch": True, "cache_write_tokens": 100_000, "caching": "1h"}, 0.8),
        (Usage(input=1_000, output=3_000, reasoning=2_900), OPUS, {}, 0.004 + 0.06),  # output includes reasoning
        (Usage(input=272_000, output=1_000), SOL, {}, 0.554),
        (Usage(input=272_001, output=1_000), SOL, {}, 1.088004 + 0.015),
        (Usage(input=300_000, cached=299_000, output=1_000), SOL, {}, 0.004 + 0.0598 + 0.015),
        (Usage(input=300_000, cached=299_000, output=1_000), SOL, {"batch": True}, 1.2 + 0.015),  # no batch price known: no discount
        (Usage(input=0, output=0), SOL, {}, 0),
    ],
)
def test_bills_by_hand(usage: Usage, known: Capabilities, options: dict[str, Any], dollars: float):
    assert cost_dollars(usage, known, **options) == pytest.approx(dollars, rel=1e-12)


def test_a_cached_token_of_unknown_price_costs_as_much_as_another():
    known = Capabilities(model="server/x", prices=Prices(input=3, output=6))
    assert cost_dollars(Usage(input=1_000, cached=900, output=0), known) == 0.003


def test_a_batch_does_not_discount_cached_tokens_unless_it_is_known():
    known = Capabilities(model="openai/x", prices=Prices(input=2, output=6, cache_read=0.2), batch=Prices(input=1, output=3))
    assert cost_dollars(Usage(input=1_000, cached=900, output=0), known, batch=True) == 0.001


@pytest.mark.parametrize(
    ("usage", "known", "options"),
    [
        (Usage(), OPUS, {}),
        (Usage(input=5), OPUS, {}),
        (Usage(output=5), OPUS, {}),
        (Usage(input=5, output=5), replace(OPUS, prices=None), {}),
        (Usage(input=5, output=5), replace(OPUS, batch=None), {"batch": True}),
        (Usage(input=5, output=5), replace(OPUS, prices=Prices(input=1)), {}),
        (Usage(input=5, output=5), replace(SOL, prices=Prices(input=1, output=1)), {"cache_write_tokens": 1}),
        (Usage(input=5, output=5), SOL, {"cache_write_tokens": 1, "caching": "1h"}),
    ],
)
def test_an_unknown_part_makes_an_unknown_cost(usage: Usage, known: Capabilities, options: dict[str, Any]):
    assert cost_dollars(usage, known, **options) is None


def test_the_most_of_a_request():
    assert most_dollars(100_000, 1_000, OPUS) == pytest.approx(0.52)  # all of it written to the cache
    assert most_dollars(100_000, 1_000, OPUS, caching="1h") == pytest.approx(0.82)
    assert most_dollars(300_000, 1_000, SOL) == pytest.approx(1.515)
    assert most_dollars(100_000, 1_000, SOL, caching="1h") is None
    assert most_dollars(100_000, 1_000, replace(OPUS, batch=None), batch=True) is None
    assert most_dollars(100_000, 1_000, replace(SOL, tiers=(Tier(above_tokens=50_000, prices=Prices()),))) is None
    cheaper = replace(SOL, tiers=(Tier(above_tokens=50_000, prices=Prices(input=0.1, output=0.1)),))
    assert most_dollars(60_000, 0, cheaper) == pytest.approx(0.15), "a shorter prompt could cost more"
    odd = Capabilities(model="server/x", prices=Prices(input=1, output=1, cache_read=3))
    assert most_dollars(1_000_000, 0, odd) == 3


@pytest.mark.parametrize("price", [0.1, 0.3, 0.7, 1.1, 1 / 3])
def test_no_rounding_passes_the_bound(price: float):
    """The same tokens in one sum or in three: rounded products would differ in the last digit, and a cap would be passed by it."""
    known = Capabilities(model="server/x", prices=Prices(input=price, output=price, cache_read=price, cache_write=price))
    for prompt in range(10, 2_000, 7):
        for cached in range(0, prompt, 97):
            usage = Usage(input=prompt, cached=cached, output=prompt)
            assert cost_dollars(usage, known, cache_write_tokens=(prompt - cached) // 3) == most_dollars(prompt, prompt, known)


PRICE = st.one_of(st.just(0.0), st.floats(1e-6, 1000), st.sampled_from([0.1, 0.3, 0.075, 1 / 3, 2.5]))
MAYBE = st.one_of(st.none(), PRICE)
PRICES = st.builds(Prices, input=PRICE, output=PRICE, cache_read=MAYBE, cache_write=MAYBE, cache_write_1h=MAYBE)
BATCH = st.one_of(st.none(), st.builds(Prices, input=MAYBE, output=MAYBE, cache_read=MAYBE, cache_write=MAYBE, cache_write_1h=MAYBE))
TIER = st.builds(Tier, above_tokens=st.integers(1, 2_000_000), prices=PRICES, batch=BATCH)
ANY = st.builds(Capabilities, model=st.just("x/y"), prices=PRICES, tiers=st.lists(TIER, max_size=3).map(tuple), batch=BATCH)
PACKAGED = st.sampled_from([known for known in packaged().values() if known.prices])
TOKENS = st.one_of(st.integers(0, 2_000_000), st.sampled_from([99_999, 100_000, 100_001, 200_000, 200_001, 272_000, 272_001]))
CACHING: st.SearchStrategy[Caching] = st.sampled_from(["5m", "1h"])


@settings(max_examples=1000, deadline=None)
@given(st.one_of(ANY, PACKAGED), st.tuples(TOKENS, TOKENS), st.booleans(), CACHING, st.data())
def test_no_request_costs_more_than_its_most(
    known: Capabilities, bounds: tuple[int, int], batch: bool, caching: Caching, data: st.DataObject
):
    prompt, answer = (data.draw(st.one_of(st.just(bound), st.integers(0, bound))) for bound in bounds)  # often the bounds themselves
    cached = data.draw(st.one_of(st.none(), st.just(prompt), st.integers(0, prompt)))
    left = prompt - (cached or 0)
    written = data.draw(st.one_of(st.just(left), st.integers(0, left)))
    usage = Usage(input=prompt, cached=cached, output=answer, reasoning=data.draw(st.integers(0, answer)))
    cost = cost_dollars(usage, known, batch=batch, cache_write_tokens=written, caching=caching)
    most = most_dollars(*bounds, known, batch=batch, caching=caching)
    assert cost is None or cost >= 0
    if most is not None:
        assert cost is not None
        assert cost <= most
    unasked = most_dollars(*bounds, known, batch=batch)
    assert (unasked is None) == (batch and known.batch is None)
    if caching == "5m" and unasked is not None and cost is not None:
        assert cost <= unasked


@settings(deadline=None)
@given(PACKAGED, st.tuples(TOKENS, TOKENS), st.tuples(TOKENS, TOKENS), st.booleans())
def test_more_tokens_are_never_cheaper(known: Capabilities, counts: tuple[int, int], more: tuple[int, int], batch: bool):
    def cost(input_tokens: int, output_tokens: int, cached: int = 0) -> float:
        return cost_dollars(Usage(input=input_tokens, cached=cached, output=output_tokens), known, batch=batch and bool(known.batch)) or 0

    prompt, answer = counts
    assert cost(prompt + more[0], answer) >= cost(prompt, answer)
    assert cost(prompt, answer + more[1]) >= cost(prompt, answer)
    assert cost(prompt + more[0], answer, cached=prompt) >= cost(prompt, answer, cached=prompt)
    assert cost(prompt, answer, cached=prompt // 2) <= cost(prompt, answer)


@settings(deadline=None)
@given(PACKAGED, TOKENS, TOKENS, st.integers(0, 2_000_000))
def test_a_batch_is_never_dearer(known: Capabilities, prompt: int, answer: int, cached: int):
    if known.batch is None:
        return
    discounts = known.batch.cache_read is not None and all(tier.batch and tier.batch.cache_read is not None for tier in known.tiers)
    usage = Usage(input=prompt, cached=min(cached, prompt) if discounts else 0, output=answer)
    live, batch = cost_dollars(usage, known), cost_dollars(usage, known, batch=True)
    assert live is not None and batch is not None
    assert batch <= live
    assert (most_dollars(prompt, answer, known, batch=True) or 0) <= (most_dollars(prompt, answer, known) or 0)


@settings(deadline=None)
@given(ANY, st.integers(-5, 10), st.integers(-5, 10), st.integers(-5, 100), st.integers(-5, 100))
@example(known=OPUS, prompt=10, answer=1, cached=50, written=40)
def test_counts_that_contradict_each_other_are_not_cheap(known: Capabilities, prompt: int, answer: int, cached: int, written: int):
    """A provider that leaves cached tokens out of the input is billed for all of them, and nothing is ever negative."""
    cost = cost_dollars(Usage(input=prompt, cached=cached, output=answer), known, cache_write_tokens=written)
    assert cost is None or cost >= 0
    whole = Usage(input=max(prompt, max(cached, 0) + max(written, 0)), cached=cached, output=answer)
    assert cost == cost_dollars(whole, known, cache_write_tokens=written)
