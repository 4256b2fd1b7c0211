"""An rManager's undertakings carried through in one go, over anything that can send a message and wait for its answer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from niah.engines.distkv.blocks import RBlock
from niah.engines.distkv.debtor import Transfer
from niah.engines.distkv.messages import Answer, Ask, Candidate, Done, Granted
from niah.engines.distkv.rmanager import RManager

Send = Callable[[Ask], Answer | None]
"""To an instance and back; None where no answer came."""
Candidates = Callable[[int, Collection[str]], Sequence[Candidate]]
"""The gManager's `candidates` for so many slots, but those that were tried; none where it does not answer."""
Copy = Callable[[Sequence[Transfer]], bool]
"""Copies data; False where that failed."""


def place(home: RManager, request: str, blocks: int, candidates: Candidates, send: Send) -> int:
    """Empty blocks for a request: own memory first, then from one candidate after the other, each asked once.

    Returns how many there were; the caller gives them back (`truncate`) if they are too few for it.
    """
    got = home.allocate(request, blocks)
    tried: list[str] = []
    while got < blocks and (named := candidates(blocks - got, tried)):
        for creditor in named:
            if got < blocks:
                got += borrow(home, request, blocks - got, creditor, send)
            tried.append(creditor.instance)
    return got


def borrow(home: RManager, request: str, blocks: int, creditor: Candidate, send: Send) -> int:
    """Up to `blocks` empty blocks from one creditor; returns how many it gave."""
    number = home.begin_borrow(request, blocks, creditor)
    return _carry_through(home, number, send, lambda _: True)


def move(home: RManager, blocks: Sequence[RBlock], destination: Candidate, send: Send, copy: Copy) -> int:
    """Full blocks of `home`'s requests to another instance, all or none; returns how many moved."""
    if not blocks:
        return 0
    return _carry_through(home, home.begin_move(blocks, destination), send, copy)


def recall(home: RManager, blocks: Sequence[RBlock], send: Send, copy: Copy) -> int:
    """Full blocks of `home`'s requests back home, all or none; returns how many came."""
    number = home.begin_recall(blocks) if blocks else None
    if number is None:
        return 0
    came = _carry_through(home, number, send, copy)
    settle(home, send)
    return came


def settle(home: RManager, send: Send) -> None:
    """Tell creditors what they may give back; those that do not answer are told again next time."""
    for release in home.releases():
        answer = send(release)
        if answer is not None:
            home.receive(answer)


def _carry_through(home: RManager, number: int, send: Send, copy: Copy) -> int:
    """How many blocks an undertaking brought; an answer that stays away ends it."""
    if not home.granted(number) and not _send(home, number, send):
        return 0
    places = home.granted(number)
    if not places:
        return 0
    if not copy(home.transfers(number)) or number not in home.undertakings:
        if number in home.undertakings:
            home.abandon(number)
        return 0
    home.commit(number)
    if number in home.undertakings and not _send(home, number, send):
        return 0
    return places


def _send(home: RManager, number: int, send: Send) -> bool:
    """Send what is due; False where that ended the undertaking without effect."""
    message = home.message(number)
    answer = send(message) if message is not None else None
    if answer is None:
        home.abandon(number)
        return False
    home.receive(answer)
    return isinstance(answer, Granted | Done)
