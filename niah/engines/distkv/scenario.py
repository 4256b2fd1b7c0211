"""What the simulator is asked and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from niah.engines.distkv.blocks import Memory
from niah.engines.distkv.performance import ASSUMED, LINKS, Link, Performance
from niah.engines.distkv.trace import Traffic

Policy = Literal["isolated", "single", "borrow", "borrow+dgfm", "greedy"]
"""Every instance for itself; one big instance of all of them; memory borrowed on demand, without and with circles of debt undone; borrowed
on demand and placed by the performance model."""
POLICIES: tuple[Policy, ...] = get_args(Policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is simulated. Instances of one node, `node_size` of them, have the link `near` between them, others `far`."""

    instances: int
    traffic: Traffic
    policy: Policy = "borrow"
    seed: int = 0
    memory: Memory = field(default_factory=lambda: Memory(slots=60, block_tokens=1024, spare_slots=1))
    node_size: int = 8
    near: Link = LINKS["nvlink"]
    far: Link = LINKS["ethernet"]
    performance: Performance = ASSUMED
    heartbeat_seconds: float = 1.0
    round_seconds: float = 10.0
    """Between rounds of DGFM or of greedy placement."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of it, simulated. Times are those of the virtual clock; `waits_seconds` last from a request's coming to its first token."""

    policy: Policy
    instances: int
    served: int = 0
    unserved: int = 0
    """Longer than all memory that the policy could give them."""
    longest_served_tokens: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    seconds: float = 0.0
    """Until the last answer."""
    waits_seconds: list[float] = field(default_factory=list[float])
    token_steps: int = 0
    """Tokens attended to, summed over all steps of decoding; `remote_token_steps` of them lay elsewhere."""
    remote_token_steps: int = 0
    work_seconds: dict[str, float] = field(default_factory=dict[str, float])
    """By instance: all that it does, for others too, one thing after the other. Both ends of a link are busy while something passes."""
    asks: int = 0
    refusals: int = 0
    preemptions: int = 0
    heartbeats: int = 0
    moved_blocks: int = 0
    recalled_blocks: int = 0
    circle_blocks: int = 0
    """Those of the recalled that undid circles of debt."""
    left_blocks: int = 0
    """Slots not free in the end: none, or the simulation is wrong."""
    events: int = 0

    def row(self) -> dict[str, Any]:
        """What people are shown, by names that tell the unit; shares and means that have nothing to be of are 0."""
        waits = sorted(self.waits_seconds) or [0.0]
        return {
            "policy": self.policy,
            "served": self.served,
            "unserved": self.unserved,
            "longest served tokens": self.longest_served_tokens,
            "wait seconds, median": waits[len(waits) // 2],
            "wait seconds, 99 of 100": waits[len(waits) * 99 // 100],
            "answer tokens per second": self.answer_tokens / self.seconds if self.seconds else 0.0,
            "remote share of attention": self.remote_token_steps / self.token_steps if self.token_steps else 0.0,
            "asks to lend": self.asks,
            "refused": self.refusals,
            "preempted": self.preemptions,
            "moved blocks": self.moved_blocks,
            "recalled blocks": self.recalled_blocks,
            "blocks out of circles": self.circle_blocks,
        }
