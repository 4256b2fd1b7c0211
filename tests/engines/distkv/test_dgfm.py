"""Circles of debt: what undoing them changes and what it leaves, for random ledgers, played through slot by slot."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

from hypothesis import given
from hypothesis import strategies as st

from niah.engines.distkv.dgfm import call_home, cancel_circles
from niah.engines.distkv.messages import Recall

NAMES = "abcdef"
debts_of = st.dictionaries(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)).filter(lambda pair: pair[0] != pair[1]), st.integers(1, 6), max_size=18
)
free_of = st.fixed_dictionaries({name: st.integers(0, 3) for name in NAMES})


def played(
    recalls: list[Recall], debts: dict[tuple[str, str], int], free: dict[str, int]
) -> tuple[dict[tuple[str, str], int], dict[str, int]]:
    """What is owed and free after the recalls, each of which must be possible at its turn."""
    debts, free = dict(debts), dict(free)
    for recall in recalls:
        assert 0 < recall.blocks <= free[recall.home]
        assert recall.blocks <= debts[recall.home, recall.creditor]
        debts[recall.home, recall.creditor] -= recall.blocks
        free[recall.home] -= recall.blocks
        free[recall.creditor] += recall.blocks
    return {pair: blocks for pair, blocks in debts.items() if blocks}, free


def net(debts: dict[tuple[str, str], int]) -> dict[str, int]:
    """Lent less borrowed."""
    return {
        name: sum(n for (_, creditor), n in debts.items() if creditor == name)
        - sum(n for (debtor, _), n in debts.items() if debtor == name)
        for name in NAMES
    }


def reached(start: str, debts: dict[tuple[str, str], int]) -> set[str]:
    """Whom one comes to from debtor to creditor."""
    found: set[str] = set()
    while more := {creditor for debtor, creditor in debts if debtor in {start, *found}} - found:
        found |= more
    return found


def circular(debts: dict[tuple[str, str], int]) -> bool:
    graph: dict[str, set[str]] = {}
    for debtor, creditor in debts:
        graph.setdefault(debtor, set()).add(creditor)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError:
        return True
    return False


@given(debts_of, free_of)
def test_cancelling_keeps_net_positions_and_use_and_lowers_remote_blocks(debts: dict[tuple[str, str], int], free: dict[str, int]):
    recalls = cancel_circles(debts, free)
    left, still_free = played(recalls, debts, free)
    assert net(left) == net(debts)
    assert still_free == free
    assert sum(debts.values()) - sum(left.values()) == sum(recall.blocks for recall in recalls)


@given(debts_of, free_of.map(lambda free: {name: slots + 1 for name, slots in free.items()}))
def test_no_circle_is_left_where_all_have_a_spare_slot(debts: dict[tuple[str, str], int], free: dict[str, int]):
    recalls = cancel_circles(debts, free)
    left, _ = played(recalls, debts, free)
    assert not circular(left)
    assert bool(recalls) == circular(debts)


@given(debts_of, free_of)
def test_no_circle_is_left_with_a_free_slot_on_it(debts: dict[tuple[str, str], int], free: dict[str, int]):
    left, _ = played(cancel_circles(debts, free), debts, free)
    for name in NAMES:
        if free[name]:
            assert name not in reached(name, left)


@given(debts_of, free_of)
def test_calling_home_never_takes_more_than_is_free_or_owed(debts: dict[tuple[str, str], int], free: dict[str, int]):
    recalls = call_home(debts, free)
    for debtor in NAMES:
        mine = [recall for recall in recalls if recall.home == debtor]
        owed = sum(blocks for (name, _), blocks in debts.items() if name == debtor)
        assert sum(recall.blocks for recall in mine) == min(free[debtor], owed)
        assert all(recall.blocks <= debts[debtor, recall.creditor] for recall in mine)


def test_a_circle_of_three_by_hand():
    debts = {("a", "b"): 5, ("b", "c"): 2, ("c", "a"): 3}
    assert cancel_circles(debts, {"b": 1}) == [
        *(Recall("b", "c", 1), Recall("c", "a", 1), Recall("a", "b", 1)),
        *(Recall("b", "c", 1), Recall("c", "a", 1), Recall("a", "b", 1)),
    ]
    assert cancel_circles(debts, {}) == []


def test_the_shortest_of_memory_are_paid_first():
    assert call_home({("a", "b"): 2, ("a", "c"): 2}, {"a": 3, "b": 4, "c": 0}) == [Recall("a", "c", 2), Recall("a", "b", 1)]
