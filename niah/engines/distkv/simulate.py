"""A simulator of many instances: discrete events over the same rManagers and gManager that serve, with times of the performance model.

What is simplified: a request's prompt is read in one go, before the instance's other requests go on; decoding advances by up to `QUANTUM`
steps at a time, all with the batch of the first; messages arrive at once; copying of blocks goes on in the background, but no faster than
the link; attention done for others makes a busy instance's next steps longer by its own time. Every number is simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from itertools import count
from random import Random

from niah.engines.distkv.debtor import Transfer
from niah.engines.distkv.dgfm import call_home, cancel_circles
from niah.engines.distkv.exchange import move, place, recall, settle
from niah.engines.distkv.gmanager import GManager
from niah.engines.distkv.messages import Answer, Ask, Recall, Refused, Reserve
from niah.engines.distkv.performance import Link, parallel
from niah.engines.distkv.placement import Model, greedy, loads
from niah.engines.distkv.rmanager import RManager
from niah.engines.distkv.scenario import Outcome, Scenario
from niah.engines.distkv.trace import Arrival, arrivals
from niah.engines.distkv.work import QUANTUM, RETRY_SECONDS, Instance, Job, Times

LONGEST_RETRY_SECONDS = 60.0


def simulate(scenario: Scenario, requests: Sequence[Arrival] | None = None) -> Outcome:
    """Play a scenario through until every request is answered or refused: those given, else those that its traffic draws.

    The same scenario has the same outcome.
    """
    requests = arrivals(scenario.traffic, scenario.seed) if requests is None else requests
    if scenario.policy == "single":
        link = scenario.near if scenario.instances <= scenario.node_size else scenario.far
        memory = replace(scenario.memory, slots=scenario.memory.slots * scenario.instances)
        whole = parallel(scenario.performance, scenario.instances, link)
        big = replace(scenario, instances=1, policy="isolated", memory=memory, performance=whole)
        return replace(_Simulation(big).run(requests), policy="single", instances=scenario.instances)
    return _Simulation(scenario).run(requests)


class _Simulation:
    def __init__(self, scenario: Scenario):
        self.scenario, self.speed = scenario, scenario.performance
        self.block_tokens = scenario.memory.block_tokens
        self.out = Outcome(policy=scenario.policy, instances=scenario.instances)
        lends = scenario.policy != "isolated"
        memory = scenario.memory if lends else replace(scenario.memory, lend_most=0, spare_slots=0)
        nodes = {f"i{n}": f"n{n // scenario.node_size}" for n in range(scenario.instances)}
        self.gmanager = GManager(nodes)
        self.instances = {name: Instance(RManager(name, memory), node) for name, node in nodes.items()}
        self.names = [*self.instances]
        self.times = Times(scenario, self.instances, self.out)
        own = memory.slots - memory.spare_slots
        most = own if memory.lend_most is None else min(own, memory.lend_most)
        self.most_slots = own + (len(self.names) - 1) * most * lends
        self.random = Random(f"distkv routes {scenario.seed}")
        self.now = 0.0
        self.unfinished = 0
        self._beats_seen = 0
        self._order = count()
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []

    def run(self, requests: Sequence[Arrival]) -> Outcome:
        for n, arrival in enumerate(requests):
            job = Job(f"r{n}", arrival.seconds, arrival.prompt_tokens, arrival.answer_tokens)
            self._at(arrival.seconds, self._arrive, job)
            self.unfinished += 1
        for name in self.names:
            self._beat(self.instances[name])
        if self.scenario.policy in ("borrow+dgfm", "greedy"):
            self._at(self.scenario.round_seconds, self._round)
        while self._events:
            self.now, _, act, arguments = heappop(self._events)
            self.out.events += 1
            act(*arguments)
        totals = [instance.manager.counts for instance in self.instances.values()]
        self.out.left_blocks = sum(counts.total - counts.free for counts in totals)
        return self.out

    def _at(self, seconds: float, act: Callable[..., None], *arguments: object) -> None:
        heappush(self._events, (seconds, next(self._order), act, arguments))

    # -- an instance's work

    def _arrive(self, job: Job) -> None:
        """To the less loaded of two instances drawn at random."""
        if self._blocks(job.next_tokens) > self.most_slots:
            self.out.unserved += 1
            self.unfinished -= 1
            return
        here = min((self.instances[self.random.choice(self.names)] for _ in range(2)), key=lambda each: each.load)
        here.load += job.prompt
        here.waiting.append(job)
        self._go_on(here)

    def _go_on(self, here: Instance) -> None:
        """Begin the next prompt, else the next steps, unless something is going on."""
        if here.busy:
            return
        if here.waiting and self.now >= here.retry_at:
            job = here.waiting[0]
            if self._hold(here, job, job.tokens):
                here.waiting.popleft()
                here.patience = RETRY_SECONDS
                here.busy = True
                self._at(self.now + self.times.prompt_seconds(here, job), self._read, here, job)
                return
            here.retry_at = self.now + here.patience
            here.patience = min(2 * here.patience, LONGEST_RETRY_SECONDS)
        if here.running:
            self._step(here)
        elif here.waiting and not here.retry_due:
            here.retry_due = True
            self._at(here.retry_at, self._retry, here)

    def _retry(self, here: Instance) -> None:
        here.retry_due = False
        self._go_on(here)

    def _read(self, here: Instance, job: Job) -> None:
        """A prompt has been read, which gives the first token of its answer."""
        here.busy = False
        if job.first is None:
            job.first = self.now
        here.running.append(job)
        self._go_on(here)

    def _step(self, here: Instance) -> None:
        """Up to QUANTUM steps of decoding for all running requests."""
        steps = min(QUANTUM, max(job.answer - job.done for job in here.running))
        for job in [*here.running]:
            wanted = min(steps, job.answer - job.done)
            while job in here.running and not self._hold(here, job, wanted):
                self._preempt(here)
        if not here.running:
            self._go_on(here)
            return
        seconds = self.times.step_seconds(here, steps)
        here.busy = True
        self._at(self.now + seconds * steps + here.extra_seconds, self._stepped, here, steps, seconds, self.now)
        here.extra_seconds = 0.0

    def _stepped(self, here: Instance, most: int, seconds: float, began: float) -> None:
        here.busy = False
        for job in [*here.running]:
            steps = min(most, job.answer - job.done)
            job.done += steps
            if job.done == job.answer:
                self._finish(here, job, began + steps * seconds)
        self._settle(here)
        self._go_on(here)

    def _finish(self, here: Instance, job: Job, seconds: float) -> None:
        out = self.out
        here.running.remove(job)
        here.load -= job.prompt
        here.manager.release(job.name)
        self.unfinished -= 1
        out.served += 1
        out.longest_served_tokens = max(out.longest_served_tokens, job.prompt)
        out.prompt_tokens += job.prompt
        out.answer_tokens += job.answer
        out.seconds = max(out.seconds, seconds)
        assert job.first is not None
        out.waits_seconds.append(job.first - job.came)

    def _preempt(self, here: Instance) -> None:
        """The youngest request gives its memory back and is read again later, the answer so far too."""
        job = here.running.pop()
        here.manager.release(job.name)
        self._settle(here)
        self.out.preemptions += 1
        if self._blocks(job.next_tokens) > self.most_slots:
            self.out.unserved += 1
            self.unfinished -= 1
            here.load -= job.prompt
        else:
            here.waiting.appendleft(job)
            here.retry_at = self.now + here.patience

    # -- memory

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens)

    def _hold(self, here: Instance, job: Job, tokens: int) -> bool:
        """Memory for `tokens` more of a request, own or borrowed; nothing changes where there is too little."""
        home, held = here.manager, here.manager.tokens(job.name)
        missing = home.missing(job.name, tokens)
        if missing:
            if self.scenario.policy == "isolated":
                got = home.allocate(job.name, missing) if home.free_slots >= missing else 0
            elif home.free_slots + self.gmanager.lendable_slots >= missing:
                got = place(home, job.name, missing, lambda slots, tried: self.gmanager.candidates(home.instance, slots, tried), self._send)
            else:
                got = 0
            self._dirty(here)
            if got < missing:
                if held:
                    home.truncate(job.name, held)
                else:
                    home.release(job.name)
                self._settle(here)
                return False
        home.fill(job.name, tokens)
        return True

    def _send(self, ask: Ask) -> Answer | None:
        other = self.instances[ask.receiver]
        answer = other.manager.receive(ask)
        if isinstance(ask, Reserve):
            self.out.asks += 1
            self.out.refusals += isinstance(answer, Refused)
        self._dirty(other)
        return answer

    def _settle(self, here: Instance) -> None:
        settle(here.manager, self._send)
        self._dirty(here)

    # -- the gManager

    def _dirty(self, here: Instance) -> None:
        if not here.beat_due and self.scenario.policy != "isolated":
            here.beat_due = True
            self._at(self.now + self.scenario.heartbeat_seconds, self._beat, here)

    def _beat(self, here: Instance) -> None:
        here.beat_due = False
        self.out.heartbeats += 1
        waiting = [self._blocks(job.next_tokens) for job in here.waiting][:16]
        here.manager.heard(self.gmanager.heartbeat(here.manager.heartbeat(waiting=waiting), self.now))

    def _round(self) -> None:
        if not self.unfinished:
            return
        if self.out.heartbeats > self._beats_seen:  # else nothing has changed
            self._beats_seen = self.out.heartbeats
            if self.scenario.policy == "greedy":
                self._place()
            else:
                self._undo_debts()
        self._at(self.now + self.scenario.round_seconds, self._round)

    def _undo_debts(self) -> None:
        free = {row.instance: row.free_slots for row in self.gmanager.ledger()}
        for order in cancel_circles(self.gmanager.debts(), free):
            self.out.circle_blocks += self._recall(order)
        # Calling home goes by what is free after that, which the heartbeats do not tell yet.
        free = {name: here.manager.free_slots for name, here in self.instances.items()}
        for order in call_home(self.gmanager.debts(), free):
            self._recall(order)

    def _recall(self, order: Recall) -> int:
        here = self.instances[order.home]
        most = min(order.blocks, len(here.manager.pool), self._copied_a_round(self.times.link(here, order.creditor)))
        came = recall(here.manager, here.manager.movable(order.creditor, most), self._send, _copied)
        self.out.recalled_blocks += came
        self._dirty(here)
        return came

    def _place(self) -> None:
        model = Model(self.speed, self.scenario.far, self.block_tokens)
        for order in greedy(loads(self.gmanager), model):
            here = self.instances[order.home]
            most = min(order.blocks, self._copied_a_round(self.times.link(here, order.destination.instance)))
            blocks = here.manager.movable(order.home, most, order.request)
            moved = move(here.manager, blocks, order.destination, self._send, _copied)
            if moved:
                self.out.moved_blocks += moved
                self._settle(here)
                here.retry_at = self.now
                self._go_on(here)

    def _copied_a_round(self, link: Link) -> int:
        return int(link.bytes_per_second * self.scenario.round_seconds / (self.block_tokens * self.speed.kv_bytes_per_token))


def _copied(_: Sequence[Transfer]) -> bool:
    """Data is not simulated."""
    return True
