"""What instances and the gManager tell each other. Any of it may be lost, late, doubled or overtaken by later ones.

    debtor -> creditor   Reserve, Commit, Release      each answered by Granted, Refused or Done
    instance -> gManager Heartbeat                     answered by HeartbeatReply
    gManager -> instance MoveKVCache, Recall           wishes, which the home of a request carries out or leaves alone

`Reserve` is the `try_move_kvcache` of the paper's second version, which new blocks use too. An epoch counts an instance's incarnations.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """From one incarnation to another. `serial` numbers a debtor's messages to all creditors; one that comes after a later one is passed
    over. `op` names the debtor's undertaking that it belongs to.
    """

    sender: str
    sender_epoch: int
    receiver: str
    receiver_epoch: int
    serial: int
    op: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve(Message):
    """Keep slots for these ids, as many as there is room for from the first on, but not fewer than `least`."""

    ids: tuple[int, ...]
    least: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit(Message):
    """The data of these reserved ids is there, or will be written in place."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(Message):
    """These ids, reserved or committed, are needed no more; unknown ones are passed over."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted(Message):
    """To Reserve: a slot for each of the first ids, and the device where they are."""

    slots: tuple[int, ...]
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Message):
    """Nothing has changed. `fenced`: this incarnation of the asker was declared dead; it must begin a new one."""

    why: str
    fenced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Message):
    """To Commit and Release of `ids`."""

    ids: tuple[int, ...]


Ask = Reserve | Commit | Release
Answer = Granted | Refused | Done


@dataclass(frozen=True, slots=True)
class PlacementEntry:
    """`blocks` of `request` lie with `instance`; an entry with 0 says that the request is no more. (The paper's RequestPlacementEntry.)"""

    request: str
    instance: str
    epoch: int
    blocks: int
    local: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What an instance says of itself. `entries` are of all of its requests when `full`, else of those that changed since the one before.

    `free_slots`: spare ones too. `lendable_slots`: how many it would lend now. `lent`: (debtor, its epoch, blocks reserved or lent), always
    complete. `waiting`: blocks that each request needs which waits for memory there; our own addition, for the placement. `dead`: as in the
    reply, in full ones, for a gManager that is new.
    """

    instance: str
    epoch: int
    sequence: int
    full: bool
    total_slots: int
    free_slots: int
    lendable_slots: int
    lent: tuple[tuple[str, int, int], ...]
    entries: tuple[PlacementEntry, ...]
    waiting: tuple[int, ...] = ()
    dead: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatReply:
    """`want_full`: the next heartbeat is to be full. `dead`: (instance, last of its epochs that is dead). `fenced`: as in Refused."""

    instance: str
    epoch: int
    want_full: bool
    dead: tuple[tuple[str, int], ...] = ()
    fenced: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """An instance that may lend, and how many slots it had to lend when it was last heard of."""

    instance: str
    epoch: int
    slots: int


@dataclass(frozen=True, slots=True)
class MoveKVCache:
    """The gManager's wish that `home` move so many blocks of a request out of its own memory."""

    home: str
    request: str
    blocks: int
    destination: Candidate


@dataclass(frozen=True, slots=True)
class Recall:
    """The gManager's wish that `home` bring so many blocks of its requests back from `creditor`."""

    home: str
    creditor: str
    blocks: int
