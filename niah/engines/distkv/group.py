"""What a home needs of the instances that it is one of, be they in this process (`fleet`) or in a Ray cluster (`ray_fleet`)."""

from __future__ import annotations

from typing import Protocol

from niah.engines.distkv.arena import Shape
from niah.engines.distkv.instance import Holder
from niah.engines.distkv.mover import Mover
from niah.engines.distkv.rmanager import RManager


class Keeper(Protocol):
    """Keeps blocks that nobody needs just now."""

    @property
    def oldest(self) -> int | None:
        """When what it would give up first was last used; None if it keeps nothing."""
        ...

    def evict(self) -> None:
        """Give that up."""
        ...


class Group(Protocol):
    """Instances that lend each other memory, as one of their homes sees them."""

    shape: Shape
    memory_bytes: int
    """Of each instance."""
    managers: dict[str, RManager]
    """Of the instances in this process that are not known to be dead."""
    keepers: dict[str, Keeper]
    mover: Mover
    moved_bytes: int
    """That went from one instance to another: keys and values, queries, and what came of them."""

    @property
    def living(self) -> int:
        """How many instances are not known to be dead."""
        ...

    @property
    def total_slots(self) -> int:
        """Of all of them."""
        ...

    @property
    def free_slots(self) -> int: ...

    def instance(self, name: str, epoch: int) -> Holder:
        """That very incarnation; InstanceLostError when it is over."""
        ...

    def place(self, home: str, request: str, blocks: int) -> int:
        """Up to `blocks` empty blocks for a request, in its home's memory first and then in others'; returns how many."""
        ...

    def settle(self, home: str) -> None:
        """Tell creditors what they may have back."""
        ...

    def evict(self) -> bool:
        """Give up what was kept longest without use, whoever keeps it; whether there was anything."""
        ...

    def work(self, tokens: int) -> None:
        """What goes on in the background when so many tokens have been read."""
        ...

    def lost(self, name: str, epoch: int) -> None:
        """An incarnation was found dead: everyone is told, and what it held or had borrowed is free or lost."""
        ...

    def bury(self) -> bool:
        """Tell everyone of those that gave no answer; whether there were any, or for another reason it is worth trying again."""
        ...
