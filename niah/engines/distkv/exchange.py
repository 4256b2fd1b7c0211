"""An rManager's undertakings carried out, in one go or bit by bit, over anything that can send a message and wait for its answer."""

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
    return Carriage(home, home.begin_borrow(request, blocks, creditor), send, _nothing).carry_through()


def move(home: RManager, blocks: Sequence[RBlock], destination: Candidate, send: Send, copy: Copy) -> int:
    """Full blocks of `home`'s requests to another instance, all or none; returns how many moved."""
    if not blocks:
        return 0
    return Carriage(home, home.begin_move(blocks, destination), send, copy).carry_through()


def recall(home: RManager, blocks: Sequence[RBlock], send: Send, copy: Copy) -> int:
    """Full blocks of `home`'s requests back home, all or none; returns how many came."""
    number = home.begin_recall(blocks) if blocks else None
    if number is None:
        return 0
    came = Carriage(home, number, send, copy).carry_through()
    settle(home, send)
    return came


def settle(home: RManager, send: Send) -> None:
    """Tell creditors what they may give back; those that do not answer are told again next time."""
    for release in home.releases():
        answer = send(release)
        if answer is not None:
            home.receive(answer)


class Carriage:
    """One undertaking of `home` on its way. Until it is over its blocks are read where they were; an answer that stays away ends it."""

    def __init__(self, home: RManager, number: int, send: Send, copy: Copy):
        self.home, self._number, self._send, self._copy = home, number, send, copy
        self._there: set[int] = set()
        """Slots at the destination whose data has been copied."""
        self.brought = 0
        """Blocks that have their new places: none before the end, and none where there was a hitch."""

    def carry_through(self) -> int:
        """All that is left of it, in one go; returns `brought`."""
        while self.step(None):
            pass
        return self.brought

    def step(self, blocks: int | None) -> bool:
        """Ask for room if that has not been done, copy up to so many blocks (None: all), commit with the last; False once it is over."""
        home, number = self.home, self._number
        if number not in home.undertakings or (not home.granted(number) and not self._tell()):
            return False
        due = [each for each in home.transfers(number) if each.slot not in self._there]
        some = due[:blocks]
        if (some and not self._copy(some)) or number not in home.undertakings:
            self.abandon()
            return False
        self._there.update(each.slot for each in some)
        if len(some) < len(due):
            return True
        places = home.granted(number)
        home.commit(number)
        if number not in home.undertakings or self._tell():
            self.brought = places
        return False

    def abandon(self) -> None:
        """End it with nothing changed, if it is not over."""
        if self._number in self.home.undertakings:
            self.home.abandon(self._number)

    def _tell(self) -> bool:
        """Send what is due; False where that ended the undertaking without effect."""
        message = self.home.message(self._number)
        answer = self._send(message) if message is not None else None
        if answer is None:
            self.abandon()
            return False
        self.home.receive(answer)
        return isinstance(answer, Granted | Done)


def _nothing(_: Sequence[Transfer]) -> bool:
    """New blocks have no data yet."""
    return True
