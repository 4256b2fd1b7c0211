"""What a simulated instance has to do, and how long that takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from niah.engines.distkv.performance import Link
from niah.engines.distkv.rmanager import RManager
from niah.engines.distkv.scenario import Outcome, Scenario

QUANTUM = 32
"""Most steps of decoding at a time."""
RETRY_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class Job:
    name: str
    came: float
    prompt: int
    answer: int
    done: int = 0
    """Tokens of the answer so far."""
    first: float | None = None

    @property
    def tokens(self) -> int:
        return self.prompt + self.done

    @property
    def next_tokens(self) -> int:
        """What it will have after its next steps."""
        return self.tokens + min(QUANTUM, self.answer - self.done)


@dataclass(slots=True, eq=False)
class Instance:
    manager: RManager
    node: str
    waiting: deque[Job] = field(default_factory=deque[Job])
    running: list[Job] = field(default_factory=list[Job])
    load: int = 0
    """Prompt tokens of all its requests."""
    busy: bool = False
    extra_seconds: float = 0.0
    """Attention done for others since its last steps began."""
    beat_due: bool = False
    retry_at: float = 0.0
    retry_due: bool = False
    patience: float = RETRY_SECONDS


class Times:
    """How long instances take; tokens attended to are counted in `out`."""

    def __init__(self, scenario: Scenario, instances: Mapping[str, Instance], out: Outcome):
        self.speed, self.block_tokens = scenario.performance, scenario.memory.block_tokens
        self.near, self.far = scenario.near, scenario.far
        self.instances, self.out = instances, out

    def link(self, here: Instance, other: str) -> Link:
        return self.near if here.node == self.instances[other].node else self.far

    def prompt_seconds(self, here: Instance, job: Job) -> float:
        """Attention of each block where it lies, all at once; queries and results pass each link one after the other."""
        speed, holders = self.speed, here.manager.holders(job.name)
        total = sum(holders.values())
        pairs = speed.prefill_pair_seconds * job.tokens * job.tokens / 2
        slowest = pairs * holders.get(here.manager.instance, 0) / total
        passing = 0.0
        for other, blocks in holders.items():
            if other != here.manager.instance:
                share = pairs * blocks / total
                self._charge(other, share)
                slowest = max(slowest, share)
                # On average half of a prompt's queries come after a block.
                passing += self.link(here, other).transfer_seconds(job.tokens * speed.query_bytes / 2)
        return speed.prefill_token_seconds * job.tokens + max(slowest, passing)

    def step_seconds(self, here: Instance, steps: int) -> float:
        """One step; attention elsewhere goes on beside attention here."""
        local, remote = 0, dict[str, list[int]]()
        for job in here.running:
            for holder, blocks in here.manager.holders(job.name).items():
                if holder == here.manager.instance:
                    local += blocks * self.block_tokens
                else:
                    seen = remote.setdefault(holder, [0, 0])
                    seen[0] += 1
                    seen[1] += blocks * self.block_tokens
        slowest = self.speed.token_seconds * local
        for holder, (requests, tokens) in remote.items():
            slowest = max(slowest, self.speed.remote_seconds(requests, tokens, self.link(here, holder)))
            self._charge(holder, self.speed.token_seconds * tokens * steps)
        away = sum(tokens for _, tokens in remote.values())
        self.out.token_steps += (local + away) * steps
        self.out.remote_token_steps += away * steps
        return self.speed.decode_seconds(len(here.running), 0) + slowest

    def _charge(self, holder: str, seconds: float) -> None:
        other = self.instances[holder]
        if other.busy:
            other.extra_seconds += seconds
