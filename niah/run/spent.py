"""What a run has cost, from its records, and what is still to be paid for it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from niah.backends import Backend
from niah.backends.models import Capabilities, cost_dollars
from niah.backends.remote import PROVIDERS, RemoteBackend, facts
from niah.report.spending import Spending, Spent
from niah.run.budget import Meter
from niah.run.journal import batched, held
from niah.run.money import dollars_for, tokens_in_front
from niah.run.plan import Plan
from niah.run.session import lost_in, state_of
from niah.run.store import TRIALS, read
from niah.trial import Cue, Record, Usage


@dataclass(slots=True)
class _Account:
    """One model's answers, taken one by one. `known` is None for a local reader, which costs nothing."""

    known: Capabilities | None
    meter: Meter | None = None
    unknown: bool = False
    dollars: float = 0.0
    answers: int = 0
    batch_answers: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    live_input: int = 0
    live_cached: int | None = None
    lengths: int = 0
    in_front: int = 0
    first: defaultdict[int, int] = field(default_factory=lambda: defaultdict[int, int](int))
    """By reshuffle: the most tokens in front of a needle. That trial fills the cache for the others."""

    def add(self, record: Record, *, batch: bool) -> float | None:
        """What this answer cost; None where a price is unknown."""
        assert record.reply is not None
        usage, trial = record.reply.usage, record.trial
        self.answers += 1
        self.batch_answers += batch
        given = record.tokens if usage.input is None else usage.input
        self.input_tokens += given
        self.cached_tokens += usage.cached or 0
        self.output_tokens += usage.output or 0
        if self.known is None:
            return 0.0
        self.meter = self.meter or Meter(self.known)
        spend = self.meter.spent(record, batch=batch)
        unknown = not spend.dollars and cost_dollars(Usage(input=given, output=1), self.known, batch=batch) is None
        self.unknown |= unknown
        self.dollars += spend.dollars
        if not batch:
            self.live_input += given
            self.live_cached = (self.live_cached or 0) + usage.cached if usage.cached is not None else self.live_cached
            front = tokens_in_front(trial.length, trial.depths[0], trial.haystack, trial.template, self.known)
            self.lengths += trial.length
            self.in_front += front
            self.first[trial.reshuffle] = max(self.first[trial.reshuffle], front)
        return None if unknown else spend.dollars

    def spending(self) -> Spending:
        planned = self.in_front - sum(self.first.values())
        return Spending(
            dollars=None if self.unknown else self.dollars,
            answers=self.answers,
            batch_answers=self.batch_answers,
            input_tokens=self.input_tokens,
            cached_tokens=self.cached_tokens,
            output_tokens=self.output_tokens,
            cached_share=None if self.live_cached is None or not self.live_input else self.live_cached / self.live_input,
            planned_cached_share=planned / self.lengths if self.lengths else None,
        )


def spent_in(
    folders: Iterable[Path],
    records: Callable[[Path], Iterable[Record]] = read,
    seen: Callable[[Path, Record, float | None], None] | None = None,
) -> Spent:
    """What the answers in some runs cost at the prices that are known now, batches at theirs.

    `records` reads those of a folder; `seen` is told of each of them and what it cost (None where that is unknown), so that they need be
    read once only.
    """
    accounts: dict[str, dict[Path, _Account]] = {}
    lost = 0.0
    for folder in dict.fromkeys(folders):
        lost += lost_in(folder).dollars
        from_batch = batched(folder)
        for record in records(folder):
            dollars = None
            if record.reply is not None:
                there = accounts.setdefault(record.model, {})
                if folder not in there:
                    there[folder] = _Account(_facts(record.model))
                dollars = there[folder].add(record, batch=from_batch(record))
            if seen is not None:
                seen(folder, record, dollars)
    models = {model: _joined([each.spending() for each in there.values()]) for model, there in sorted(accounts.items())}
    return Spent(models=models, lost_dollars=lost)


def still_to_pay(
    plans: Mapping[str, Plan], backends: Mapping[str, Backend], cues: Mapping[str, tuple[Cue, ...]], folder: Path, *, batch: bool
) -> float:
    """Dollars that a sweep may cost from now on, as far as prices are known: what is answered or at a provider is not asked again."""
    there = (folder / TRIALS).exists()
    state, waiting = (state_of(folder), held(folder)) if there else ({}, {})
    total, cap = 0.0, None
    for model, backend in backends.items():
        plan, away = plans[model], waiting.get(model, set[str]())
        cap = plan.experiment.max_cost
        if isinstance(backend, RemoteBackend):
            settled = away | {key for (name, key), failure in state.items() if name == model and failure is None}
            lengths = Counter(trial.length for trial in plan.trials(cues[model]) if trial.key not in settled)
            total += dollars_for(lengths, plan.experiment, backend.capabilities, batch=batch) or 0.0
    if cap is None or not there:
        return total if cap is None else min(total, cap)
    spent = spent_in([folder])
    return min(total, max(0.0, cap - spent.lost_dollars - spent.known_dollars))


def _facts(model: str) -> Capabilities | None:
    return facts(model) if model.partition("/")[0] in PROVIDERS else None


def _joined(parts: list[Spending]) -> Spending:
    """One model in several runs. Shares are told of one run only: several may overlap."""
    if len(parts) == 1:
        return parts[0]
    return Spent(models={str(number): part for number, part in enumerate(parts)}).total
