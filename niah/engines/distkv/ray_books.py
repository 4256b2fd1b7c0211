"""An rManager that several threads of an instance use: its home reads and moves, others ask for room, heartbeats go out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from threading import RLock

from niah.engines.distkv.blocks import Memory, RBlock, Span
from niah.engines.distkv.debtor import Transfer
from niah.engines.distkv.messages import Answer, Candidate, Commit, Heartbeat, HeartbeatReply, Message, Release, Reserve
from niah.engines.distkv.rmanager import RManager


class Books(RManager):
    """Each call is whole by itself (`guard`), and nobody waits for another instance inside of one.

    That an instance has died takes effect for what it had here at once, for own requests only when the home says `catch_up`: a text
    must not lose blocks while a layer reads them.
    """

    def __init__(self, instance: str, memory: Memory, *, epoch: int):
        super().__init__(instance, memory, epoch=epoch)
        self.guard = RLock()
        self._news: dict[str, int] = {}

    def is_dead(self, instance: str, epoch: int) -> bool:
        return epoch <= self._dead.get(instance, -1)

    @property
    def owes(self) -> bool:
        """Whether there is anything to give back."""
        return bool(self._owed)

    def dead(self, instance: str, epoch: int) -> None:
        """See `RManager`; of own requests later."""
        with self.guard:
            if instance != self.instance and not self.is_dead(instance, epoch):
                self._dead[instance] = epoch
                self.lender.forget(instance, epoch)
                self._news[instance] = epoch

    def catch_up(self) -> bool:
        """Let own requests lose what dead instances held; whether there was any news."""
        with self.guard:
            news, self._news = self._news, {}
            for instance, epoch in news.items():
                super().dead(instance, epoch)
            return bool(news)

    def allocate(self, request: str, blocks: int) -> int:
        with self.guard:
            return super().allocate(request, blocks)

    def fill(self, request: str, tokens: int) -> list[Span]:
        with self.guard:
            return super().fill(request, tokens)

    def share(self, source: str, request: str, blocks: int) -> None:
        with self.guard:
            super().share(source, request, blocks)

    def truncate(self, request: str, tokens: int) -> int:
        with self.guard:
            return super().truncate(request, tokens)

    def release(self, request: str) -> None:
        with self.guard:
            super().release(request)

    def movable(self, holder: str, most: int, request: str | None = None) -> list[RBlock]:
        with self.guard:
            return super().movable(holder, most, request)

    def begin_borrow(self, request: str, blocks: int, creditor: Candidate, *, least: int = 1) -> int:
        with self.guard:
            return super().begin_borrow(request, blocks, creditor, least=least)

    def begin_move(self, blocks: Sequence[RBlock], destination: Candidate) -> int:
        with self.guard:
            return super().begin_move(blocks, destination)

    def begin_recall(self, blocks: Sequence[RBlock]) -> int | None:
        with self.guard:
            return super().begin_recall(blocks)

    def message(self, number: int) -> Reserve | Commit | None:
        with self.guard:
            return super().message(number)

    def transfers(self, number: int) -> list[Transfer]:
        with self.guard:
            return super().transfers(number)

    def commit(self, number: int) -> None:
        with self.guard:
            super().commit(number)

    def abandon(self, number: int) -> None:
        with self.guard:
            super().abandon(number)

    def releases(self) -> list[Release]:
        with self.guard:
            return super().releases()

    def receive(self, message: Message) -> Answer | None:
        with self.guard:
            return super().receive(message)

    def heartbeat(self, *, full: bool = False, waiting: Iterable[int] = ()) -> Heartbeat:
        with self.guard:
            return super().heartbeat(full=full, waiting=waiting)

    def heard(self, reply: HeartbeatReply) -> None:
        with self.guard:
            super().heard(reply)
