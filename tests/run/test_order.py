"""The order of a sweep that may stop at any time."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from niah.run.order import balanced
from niah.task.deal import deal

COUNTS = st.integers(1, 9)


@settings(max_examples=40, deadline=None)
@given(COUNTS, COUNTS, st.integers(1, 12), st.integers(0, 5))
def test_every_beginning_is_fair_and_nothing_comes_twice(lengths: int, depths: int, reshuffles: int, seed: int) -> None:
    order = balanced(lengths, depths, reshuffles, seed)
    assert sorted(order) == [(i, j, r) for i in range(lengths) for j in range(depths) for r in range(reshuffles)]
    assert order == balanced(lengths, depths, reshuffles, seed)
    for end in range(1, len(order) + 1):
        counts = Counter(r for _, _, r in order[:end])
        assert max(counts.values()) - min(counts[r] for r in range(reshuffles)) <= 1
    for r in range(reshuffles):
        cells = [(i, j) for i, j, text in order if text == r]
        assert len(set(cells)) == lengths * depths


def test_a_few_rounds_come_to_all_cells_and_needles_of_a_large_sweep() -> None:
    order, dealt = balanced(8, 11, 20, 0), deal(30, 8, 11, 20, seed=0)
    first = order[:400]
    for of in (lambda place: place[0], lambda place: place[1]):
        counts = Counter(map(of, first))
        assert max(counts.values()) <= 1.25 * min(counts.values())
    cells = Counter((i, j) for i, j, _ in first)
    assert len(cells) == 88 and max(cells.values()) <= 6
    needles = Counter(int(dealt[place]) for place in first)
    assert len(needles) == 30 and max(needles.values()) <= 3 * min(needles.values())


def test_another_seed_is_another_order() -> None:
    assert balanced(3, 5, 4, 0) != balanced(3, 5, 4, 1)
