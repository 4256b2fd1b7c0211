"""Managers by themselves: cases that the protocol's machine meets seldom, the direct conversation, and the gManager's ledger."""

from __future__ import annotations

import pytest

from niah.engines.distkv.blocks import Memory
from niah.engines.distkv.exchange import borrow, move, place, recall, settle
from niah.engines.distkv.gmanager import GManager
from niah.engines.distkv.messages import Answer, Ask, Candidate, Commit, Granted, Refused, Reserve
from niah.engines.distkv.rmanager import RManager

MEMORY = Memory(slots=4, block_tokens=10)


def group(names: str = "abc", memory: Memory = MEMORY) -> dict[str, RManager]:
    return {name: RManager(name, memory) for name in names}


def sender(managers: dict[str, RManager]):
    def send(ask: Ask) -> Answer | None:
        other = managers.get(ask.receiver)
        return other.receive(ask) if other else None

    return send


def told(managers: dict[str, RManager], nodes: dict[str, str] | None = None) -> GManager:
    gmanager = GManager(nodes)
    for manager in managers.values():
        manager.heard(gmanager.heartbeat(manager.heartbeat()))
    return gmanager


def other(name: str, slots: int = 4) -> Candidate:
    return Candidate(name, 0, slots)


def test_own_memory_first_then_others_in_turn_and_back():
    managers = group()
    a, gmanager = managers["a"], told(managers)
    send = sender(managers)
    assert place(a, "r", 11, lambda slots, tried: gmanager.candidates("a", slots, tried), send) == 11
    assert dict(a.holders("r")) == {"a": 4, "b": 4, "c": 3}
    spans = a.fill("r", 105)
    assert [(span.start, span.tokens) for span in spans] == [(0, 10)] * 10 + [(0, 5)]
    assert all(managers[block.holder].locate(block) == block.slot for block in a.blocks("r"))
    assert place(a, "r", 5, lambda slots, tried: gmanager.candidates("a", slots, tried), send) == 1
    with pytest.raises(ValueError, match="blocks too few"):
        a.fill("r", 1000)
    assert a.truncate("r", 62) == 62
    settle(a, send)
    assert dict(a.holders("r")) == {"a": 4, "b": 3}
    a.release("r")
    settle(a, send)
    assert all(manager.counts.free == 4 for manager in managers.values())
    assert a.releases() == [], "what was confirmed is told again"


def test_many_creditors_are_found_though_three_are_named_at_a_time():
    managers = group("abcdefghij")
    gmanager = told(managers)
    assert place(managers["a"], "r", 40, lambda slots, tried: gmanager.candidates("a", slots, tried), sender(managers)) == 40


def test_blocks_given_back_during_a_move_do_not_arrive():
    managers = group()
    a, b = managers["a"], managers["b"]
    a.allocate("r", 3)
    a.fill("r", 30)
    number = a.begin_move(a.movable("a", 3), other("b"))
    assert a.movable("a", 3) == []
    a.receive(b.receive(a.message(number)))
    assert len(a.transfers(number)) == 3
    a.commit(number)
    commit = a.message(number)
    assert a.truncate("r", 15) == 10  # the second block is on its way and must not be written
    a.receive(b.receive(commit))
    assert dict(a.holders("r")) == {"b": 1}
    assert a.counts.free == 4
    settle(a, sender(managers))
    assert b.counts.lent == 1


def test_a_shared_block_moves_once_and_lives_as_long_as_one_needs_it():
    managers = group()
    a, send = managers["a"], sender(managers)
    a.allocate("r", 2)
    a.fill("r", 20)
    a.share("r", "s", 2)
    with pytest.raises(ValueError, match="cannot begin"):
        a.share("r", "t", 3)
    assert a.counts.own == 2
    assert move(a, a.movable("a", 9), other("b"), send, lambda _: True) == 2
    assert dict(a.holders("r")) == dict(a.holders("s")) == {"b": 2}
    a.release("r")
    settle(a, send)
    assert managers["b"].counts.lent == 2
    assert a.truncate("s", 15) == 15
    settle(a, send)
    a.release("s")
    settle(a, send)
    assert managers["b"].counts.lent == 0


def test_a_copy_that_fails_changes_nothing():
    managers = group()
    a, send = managers["a"], sender(managers)
    a.allocate("r", 2)
    a.fill("r", 20)
    assert move(a, a.movable("a", 2), other("b"), send, lambda _: False) == 0
    settle(a, send)
    assert dict(a.holders("r")) == {"a": 2}
    assert managers["b"].counts.free == 4
    assert move(a, a.movable("a", 2), other("b"), send, lambda _: True) == 2
    assert recall(a, a.movable("b", 2), send, lambda _: False) == 0
    assert a.counts.free == 4
    assert recall(a, a.movable("b", 2), send, lambda _: True) == 2
    assert managers["b"].counts.free == 4


def test_a_creditor_that_does_not_answer_gives_nothing_and_keeps_nothing():
    managers = group("ab")
    a, b = managers["a"], managers["b"]

    def lost(ask: Ask) -> Answer | None:
        answer = b.receive(ask)
        return None if isinstance(ask, Reserve) else answer

    assert borrow(a, "r", 2, other("b"), lost) == 0
    assert a.undertakings == ()
    assert b.counts.reserved == 2
    settle(a, lost)
    assert b.counts.free == 4


def test_the_dead_get_nothing():
    a, b = RManager("a", MEMORY), RManager("b", MEMORY)
    number = a.begin_borrow("r", 2, other("b"))
    b.dead("a", 0)
    answer = b.receive(a.message(number))
    assert isinstance(answer, Refused)
    assert answer.fenced
    a.receive(answer)
    assert a.fenced
    assert b.counts.free == 4
    again = RManager("a", MEMORY, epoch=1)
    answer = b.receive(again.message(again.begin_borrow("r", 2, other("b"))))
    assert isinstance(answer, Granted)


def test_a_restarted_instance_does_not_answer_for_lost_blocks():
    managers = group("ab")
    a, send = managers["a"], sender(managers)
    a.allocate("r", 1)
    assert borrow(a, "r", 2, other("b"), send) == 2
    a.fill("r", 25)
    number = a.begin_recall(a.movable("b", 1))
    assert number is not None
    managers["b"] = RManager("b", MEMORY, epoch=1)
    assert [managers["b"].locate(block) for block in a.blocks("r")[1:]] == [None, None]
    assert borrow(a, "r", 1, other("b"), send) == 0, "meant for the one before"
    assert a.losses == {"r": 10}
    assert a.tokens("r") == 10
    a.commit(number)  # what it was to bring home is gone
    assert a.counts.free == 3
    assert borrow(a, "r", 1, Candidate("b", 1, 4), send) == 1


def test_a_late_refusal_of_an_earlier_try_ends_nothing():
    managers = group("ab")
    a, b = managers["a"], managers["b"]
    b.allocate("x", 4)
    number = a.begin_borrow("r", 2, other("b"))
    refusal = b.receive(a.message(number))
    assert isinstance(refusal, Refused)
    b.release("x")
    a.receive(b.receive(a.message(number)))
    a.receive(refusal)
    assert a.granted(number) == 2


def test_what_is_reserved_counts_for_the_cap_on_lending():
    managers = group("abc", Memory(slots=4, block_tokens=10, lend_most=3))
    b = managers["b"]
    answers = [b.receive(managers[name].message(managers[name].begin_borrow("r", 2, other("b")))) for name in ("a", "c")]
    assert [len(answer.slots) for answer in answers if isinstance(answer, Granted)] == [2, 1]
    assert (b.counts.reserved, b.lender.lendable_slots) == (3, 0)


def test_of_several_losses_the_earliest_place_is_told():
    managers = group()
    a, send = managers["a"], sender(managers)
    a.allocate("r", 1)
    assert [borrow(a, "r", 1, other(name), send) for name in ("b", "c")] == [1, 1]
    a.fill("r", 30)
    a.dead("c", 0)
    assert a.losses == {"r": 20}
    a.dead("b", 0)
    assert (a.losses, a.tokens("r")) == ({"r": 10}, 10)


def test_a_commit_of_what_was_never_reserved_is_refused():
    b = RManager("b", MEMORY)
    ask = Commit(sender="a", sender_epoch=0, receiver="b", receiver_epoch=0, serial=3, op=0, ids=(1, 2))
    assert isinstance(b.receive(ask), Refused)
    assert b.counts.free == 4
    with pytest.raises(ValueError, match="was given a message"):
        RManager("c", MEMORY).receive(ask)


def test_spare_slots_are_for_recalls():
    managers = group("ab", Memory(slots=4, block_tokens=10, spare_slots=1))
    a, send = managers["a"], sender(managers)
    assert a.allocate("r", 4) == 3
    assert borrow(a, "r", 4, other("b"), send) == 3
    a.fill("r", 60)
    assert recall(a, a.movable("b", 1), send, lambda _: True) == 1
    assert a.counts.free == 0


def test_near_instances_with_room_for_all_come_first():
    nodes = {"a": "n0", "b": "n0", "c": "n0", "d": "n1"}
    managers = group("abcd")
    managers["b"].allocate("x", 3)
    managers["c"].allocate("x", 1)
    gmanager = told(managers, nodes)
    assert [each.instance for each in gmanager.candidates("a", 3)] == ["c", "d", "b"]
    assert [each.instance for each in gmanager.candidates("a", 4)] == ["d", "c", "b"]
    assert [each.instance for each in gmanager.candidates("a", 1)] == ["c", "b", "d"]
    assert [each.instance for each in gmanager.candidates("a", 1, {"c"})] == ["b", "d"]
    assert gmanager.lendable_slots == 4 + 1 + 3 + 4


def test_a_stale_ledger_promises_too_much_and_the_first_is_served():
    managers = group()
    gmanager = told(managers)
    managers["c"].allocate("x", 4)
    send = sender(managers)
    assert borrow(managers["a"], "r", 3, gmanager.candidates("a", 3)[0], send) == 3
    named = gmanager.candidates("c", 4)
    assert [(each.instance, each.slots) for each in named] == [("a", 4), ("b", 4)]
    assert [borrow(managers["c"], "y", 4, each, send) for each in named] == [4, 1]


def test_silence_and_hearsay_end_an_instance():
    managers = group("ab")
    a = managers["a"]
    assert borrow(a, "r", 2, other("b"), sender(managers)) == 2
    gmanager = GManager()
    gmanager.heartbeat(a.heartbeat(), now=1.0)
    assert gmanager.expire(1.0) == []
    gmanager.heartbeat(a.heartbeat(), now=5.0)
    assert gmanager.expire(2.0) == ["b"], "b is known from a's blocks only, and was never heard of"
    a.heard(gmanager.heartbeat(a.heartbeat(), now=6.0))
    assert a.losses == {"r": 0}
    assert a.blocks("r") == []
    assert gmanager.heartbeat(managers["b"].heartbeat(), now=7.0).fenced
    assert gmanager.expire(10.0) == ["a"]
    assert gmanager.candidates("b", 1) == []


def test_a_lost_heartbeat_is_noticed_and_made_good():
    managers = group("ab")
    a, gmanager = managers["a"], told(managers)
    a.allocate("r", 2)
    a.heartbeat()  # lost
    a.allocate("s", 1)
    reply = gmanager.heartbeat(a.heartbeat())
    assert reply.want_full
    assert [request for _, request, _ in gmanager.placements()] == []
    a.heard(reply)
    gmanager.heartbeat(a.heartbeat())
    assert {request: dict(holders) for _, request, holders in gmanager.placements()} == {"r": {"a": 2}, "s": {"a": 1}}
    a.release("r")
    gmanager.heartbeat(a.heartbeat())
    assert [request for _, request, _ in gmanager.placements()] == ["s"]
    a.release("s")
    a.heartbeat()  # lost, and with it that there is no such request any more
    a.heard(gmanager.heartbeat(a.heartbeat()))
    gmanager.heartbeat(a.heartbeat())
    assert [*gmanager.placements()] == []


def test_the_first_block_of_two_requests_is_not_written_again():
    a = RManager("a", MEMORY)
    a.allocate("r", 2)
    a.fill("r", 20)
    a.share("r", "s", 2)
    assert a.truncate("s", 15) == 10
    assert [block.tokens for block in a.blocks("r")] == [10, 10]


def test_no_request_begins_with_a_block_that_is_not_full():
    a = RManager("a", MEMORY)
    a.allocate("r", 2)
    a.fill("r", 15)
    with pytest.raises(ValueError, match="cannot begin with 2 blocks"):
        a.share("r", "s", 2)
    a.share("r", "s", 1)
    assert a.tokens("s") == 10


def test_an_own_block_of_the_incarnation_before_is_not_here():
    before = RManager("a", MEMORY)
    before.allocate("r", 1)
    assert before.locate(before.blocks("r")[0]) == 0
    assert RManager("a", MEMORY, epoch=1).locate(before.blocks("r")[0]) is None


def test_a_new_gmanager_learns_who_is_dead_from_the_living():
    managers = group("ab")
    managers["b"].dead("a", 0)
    gmanager = GManager()
    gmanager.heartbeat(managers["b"].heartbeat(full=True))
    assert gmanager.heartbeat(managers["a"].heartbeat()).fenced


def test_a_block_of_the_home_before_is_not_found_under_the_same_id():
    managers = group("ab")
    before, b = managers["a"], managers["b"]
    assert borrow(before, "r", 1, other("b"), sender(managers)) == 1
    managers["a"] = after = RManager("a", MEMORY, epoch=1)
    assert borrow(after, "r", 1, other("b"), sender(managers)) == 1
    old, new = before.blocks("r")[0], after.blocks("r")[0]
    assert old.id == new.id
    assert b.locate(new) == new.slot
    assert b.locate(old) is None
