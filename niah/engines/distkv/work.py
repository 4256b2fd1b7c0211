"""What a simulated instance has to do, and how long that takes."""

from __future__ import annotations

from collections import Counter, deque
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
        """Attention of each block where it lies, all at once; keys, queries and results pass each link one after the other.

        A block is attended to by all that come after it, so that a home, which has the first ones, does more than its share.
        """
        speed, passing = self.speed, 0.0
        pairs, first, written = dict[str, float](), dict[str, int](), dict[str, int]()
        for number, block in enumerate(here.manager.blocks(job.name)):
            start = number * self.block_tokens
            tokens = min(self.block_tokens, job.tokens - start)
            if tokens <= 0:
                break
            pairs[block.holder] = pairs.get(block.holder, 0.0) + tokens * (job.tokens - start - tokens / 2)
            first.setdefault(block.holder, start)
            written[block.holder] = written.get(block.holder, 0) + tokens
        seconds = {holder: speed.prefill_pair_seconds * some for holder, some in pairs.items()}
        for other, attention in seconds.items():
            if other != here.manager.instance:
                size_bytes = (job.tokens - first[other]) * speed.query_bytes + written[other] * speed.kv_bytes_per_token
                one_way = self.link(here, other).transfer_seconds(size_bytes)
                passing += one_way
                self._charge(other, attention, one_way)
        read = speed.prefill_token_seconds * job.tokens
        self._work(here, read + seconds.get(here.manager.instance, 0.0) + passing)
        return read + max(passing, *seconds.values())

    def step_seconds(self, here: Instance, steps: int) -> float:
        """One step; attention elsewhere goes on beside attention here."""
        local, remote, passing = 0, dict[str, list[int]](), 0.0
        written = Counter(here.manager.blocks(job.name)[-1].holder for job in here.running)
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
            link = self.link(here, holder)
            away = self.speed.remote_seconds(requests, tokens, link)
            if written[holder]:  # the new tokens' keys and values go there, layer by layer
                away += self.speed.layers * link.seconds + written[holder] * self.speed.kv_bytes_per_token / link.bytes_per_second
            slowest, attention = max(slowest, away), self.speed.token_seconds * tokens
            passing += away - attention
            self._charge(holder, attention * steps, (away - attention) * steps)
        away = sum(tokens for _, tokens in remote.values())
        self.out.token_steps += (local + away) * steps
        self.out.remote_token_steps += away * steps
        rest = self.speed.decode_seconds(len(here.running), 0)
        self._work(here, (rest + self.speed.token_seconds * local + passing) * steps)
        return rest + slowest

    def _charge(self, holder: str, attention_seconds: float, passing_seconds: float) -> None:
        other = self.instances[holder]
        self._work(other, attention_seconds + passing_seconds)
        if other.busy:
            other.extra_seconds += attention_seconds

    def _work(self, instance: Instance, seconds: float) -> None:
        worked = self.out.work_seconds
        worked[instance.manager.instance] = worked.get(instance.manager.instance, 0.0) + seconds
