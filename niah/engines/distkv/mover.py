"""Blocks that move in the background: what the gManager wishes, carried out a few blocks at a time between the steps of reading.

The order is that of the paper's second version: room is reserved at the destination (`try_move_kvcache`), data is copied while its old
place is still read, and with the last block the new places count (`move_kvcache`). Wishes are carried out one after the other, because a
recall along a circle of debts needs the slots that the one before has freed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from niah.engines.distkv.exchange import Carriage, Copy, Send, settle
from niah.engines.distkv.messages import MoveKVCache, Recall
from niah.engines.distkv.rmanager import RManager

Order = MoveKVCache | Recall


class Mover:
    """`managers` are those of the instances that live; `send` and `copy` as for `exchange`."""

    def __init__(self, managers: Mapping[str, RManager], send: Send, copy: Copy):
        self._managers, self._send, self._copy = managers, send, copy
        self._orders: deque[Order] = deque()
        self._carriage: Carriage | None = None
        self.brought_blocks = 0
        """That have moved so far."""

    @property
    def idle(self) -> bool:
        return self._carriage is None and not self._orders

    def order(self, orders: Iterable[Order]) -> None:
        """Carry these out too. What cannot be done any more when its turn comes is passed over."""
        self._orders.extend(orders)

    def drop_orders(self) -> None:
        """Forget what has not begun; what is on its way goes on."""
        self._orders.clear()

    def give_way(self) -> bool:
        """End all of it, because the places that it has reserved are needed; whether there was anything on its way."""
        carriage, self._carriage = self._carriage, None
        self._orders.clear()
        if carriage is None or self._managers.get(carriage.home.instance) is not carriage.home:
            return False
        carriage.abandon()
        settle(carriage.home, self._send)
        return True

    def step(self, blocks: int) -> None:
        """Copy up to so many blocks of one order, and begin the next one if there is none on its way."""
        carriage = self._carriage
        while carriage is None:
            if not self._orders:
                return
            carriage = self._begun(self._orders.popleft())
        home = carriage.home
        if self._managers.get(home.instance) is not home:  # it died, and its undertakings with it
            self._carriage = None
            return
        self._carriage = carriage if carriage.step(blocks) else None
        if self._carriage is None:
            self.brought_blocks += carriage.brought
            if self._managers.get(home.instance) is home:
                settle(home, self._send)

    def _begun(self, order: Order) -> Carriage | None:
        """None for what a home leaves alone: it is not there, has no such block, or too little room."""
        home = self._managers.get(order.home)
        if home is None:
            return None
        if isinstance(order, Recall):
            blocks = home.movable(order.creditor, min(order.blocks, len(home.pool)))
            number = home.begin_recall(blocks) if blocks else None
        else:
            blocks = home.movable(home.instance, order.blocks, order.request)
            number = home.begin_move(blocks, order.destination) if blocks else None
        return None if number is None else Carriage(home, number, self._send, self._copy)
