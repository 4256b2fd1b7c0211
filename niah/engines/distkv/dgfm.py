"""Circles of debt and how they are undone: the DGFM of the paper's first version, as far as it is known.

Sourced are the name and that it optimises memory. The definition here is our own: debts are a graph with an edge from debtor to creditor,
as heavy as the blocks borrowed. Around a circle everybody could have its blocks at home, yet each reads them from its neighbour. The
smallest weight c of a circle is taken off all of its edges by recalls: a member with free slots brings blocks home, which frees slots at
its creditor, which does the same, until the last one frees the first one's slots again. So one free slot anywhere on the circle is enough
(`Memory.spare_slots` keeps one), what every member uses, lends and borrows in sum stays the same, and c times the circle's length fewer
blocks are remote.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from niah.engines.distkv.messages import Recall

Debts = Mapping[tuple[str, str], int]
"""(debtor, creditor): blocks."""


def cancel_circles(debts: Debts, free: Mapping[str, int]) -> list[Recall]:
    """Recalls, in the order in which they can be carried out, that undo circles of debt, shortest circles first.

    `free`: slots of each instance, spare ones too. Afterwards there is no circle with a free slot on it.
    """
    owed = _owed(debts)
    recalls: list[Recall] = []
    for start in sorted(_core(owed)):
        while free.get(start, 0) > 0 and (circle := _circle(start, owed)):
            recalls += _undo(circle, owed, free[start])
    return recalls


def call_home(debts: Debts, free: Mapping[str, int]) -> list[Recall]:
    """Recalls of whoever has both debts and free slots, first from the creditors that are shortest of memory."""
    recalls: list[Recall] = []
    for debtor, creditors in sorted(_owed(debts).items()):
        room = free.get(debtor, 0)
        for creditor in sorted(creditors, key=lambda name: (free.get(name, 0), name)):
            blocks = min(room, creditors[creditor])
            if blocks > 0:
                recalls.append(Recall(debtor, creditor, blocks))
                room -= blocks
    return recalls


def wishes(debts: Debts, free: Mapping[str, int]) -> list[Recall]:
    """One round of it: circles are undone where there are any; else debts are called home."""
    return cancel_circles(debts, free) or call_home(debts, free)


def _owed(debts: Debts) -> dict[str, dict[str, int]]:
    owed: dict[str, dict[str, int]] = {}
    for (debtor, creditor), blocks in sorted(debts.items()):
        if blocks > 0:
            owed.setdefault(debtor, {})[creditor] = blocks
    return owed


def _core(owed: dict[str, dict[str, int]]) -> set[str]:
    """Instances that may lie on circles; `owed` is left with the debts among them."""
    while True:
        creditors = {creditor for row in owed.values() for creditor in row}
        core = creditors & owed.keys()
        before = sum(len(row) for row in owed.values())
        for debtor in [*owed]:
            owed[debtor] = {creditor: blocks for creditor, blocks in owed[debtor].items() if creditor in core}
            if debtor not in core or not owed[debtor]:
                del owed[debtor]
        if sum(len(row) for row in owed.values()) == before:
            return core


def _circle(start: str, owed: dict[str, dict[str, int]]) -> list[str]:
    """The shortest circle through `start`, from it on: each owes the next, the last the first. Empty if there is none."""
    behind = {start: ""}
    waiting = deque([start])
    while waiting:
        here = waiting.popleft()
        for creditor in owed.get(here, ()):
            if creditor == start:
                circle = [here]
                while circle[-1] != start:
                    circle.append(behind[circle[-1]])
                return circle[::-1]
            if creditor not in behind:
                behind[creditor] = here
                waiting.append(creditor)
    return []


def _undo(circle: list[str], owed: dict[str, dict[str, int]], at_once: int) -> list[Recall]:
    """Take the smallest debt of a circle off all of its edges: the recalls, with `at_once` slots free at its first member."""
    pairs = [*zip(circle, circle[1:] + circle[:1], strict=True)]
    smallest = min(owed[debtor][creditor] for debtor, creditor in pairs)
    for debtor, creditor in pairs:
        owed[debtor][creditor] -= smallest
        if not owed[debtor][creditor]:
            del owed[debtor][creditor]
    rounds = [min(at_once, smallest - done) for done in range(0, smallest, at_once)]
    return [Recall(debtor, creditor, blocks) for blocks in rounds for debtor, creditor in pairs]
