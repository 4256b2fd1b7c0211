"""A sweep that stops as soon as its verdict against a baseline is certain: in which order it asks, when it stops, what it declares."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from niah.errors import UsageError
from niah.report.compare import KEY_DIGITS
from niah.report.points import Latest
from niah.report.sequential import Agenda, Looks, Rule, place_of
from niah.report.side import Side
from niah.run.order import balanced
from niah.run.plan import Plan
from niah.run.runner import Progress
from niah.run.store import RUN, describe
from niah.trial import Cue, Record, Trial

DECLARED = "until_settled"
"""In run.json: the rule by which the run stops. It stands there before the first trial is asked, and cannot be changed later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """What a sweep is held against, and by which rule."""

    base: Side
    rule: Rule

    def declared(self) -> dict[str, Any]:
        return {DECLARED: asdict(self.rule)}


def check_declared(folder: Path, aim: Aim | None, cues: Mapping[str, tuple[Cue, ...]], *, batch: bool) -> None:
    """UsageError for a sweep that cannot be stopped so, and where a run was begun by another rule or by none."""
    if aim is None:
        return
    if batch:
        raise UsageError("--until-settled asks trials one after the other: it does not go with --batch")
    if any(len(modes) > 1 for modes in cues.values()):
        raise UsageError("--until-settled compares with one baseline: name one cue mode")
    if not any(point.scored for point in aim.base.points):
        raise UsageError(f"{aim.base.name} has no scored trial: there is nothing to compare with")
    there = describe(folder).get(DECLARED) if (folder / RUN).exists() else None
    if (folder / RUN).exists() and there != aim.declared()[DECLARED]:
        told = "without --until-settled" if there is None else f"with --margin {there['margin']:g} --alpha {there['alpha']:g}"
        raise UsageError(f"{folder} was begun {told}, which cannot be changed now: choose another --out")


def agenda_of(there: Mapping[str, Any]) -> Agenda | None:
    """The agenda of a run, from its run.json; None where it asks everything."""
    return _agenda(Rule(**there[DECLARED]), **_grid(there["experiment"])) if DECLARED in there else None


class Settling:
    """One model's way to a verdict. Its trials end when it is settled; what is in flight then is kept."""

    def __init__(self, aim: Aim, plan: Plan, cues: tuple[Cue, ...]):
        self._plan, self._cues = plan, cues
        self._agenda = _agenda(aim.rule, **_grid(plan.experiment.model_dump(mode="json")))
        self._base = {place_of(point): point for point in aim.base.points}
        self._looks = Looks(self._agenda, self._base)
        self._check(aim.base)

    @property
    def planned(self) -> int:
        """Trials that may be asked: those that the base has scored."""
        return len(self._looks.places)

    @property
    def round_trials(self) -> int:
        """Trials between two looks."""
        return self._agenda.round_trials

    @property
    def settled(self) -> bool:
        return self._looks.settled

    def begin(self, records: Iterable[Record]) -> None:
        """Take the model's records of earlier sessions. Failed trials count as lost if it is settled so, else they are asked again."""
        latest = Latest()
        for record in records:
            latest.add(record)
        points = [point for _, point in latest.points()]
        for point in points:
            self._looks.add(point)
        if not self.settled:
            self._looks = Looks(self._agenda, self._base)
            for point in points:
                if point.outcome != "error":
                    self._looks.add(point)

    def trials(self) -> Iterator[Trial]:
        """In the order that is fair to all, as long as it is not settled."""
        wanted = set(self._looks.places)
        for trial in self._plan.trials_balanced(self._cues):
            if self.settled:
                return
            if _place(trial) in wanted:
                yield trial

    def heard(self, progress: Progress) -> Progress:
        """Who is told of records, with this one listening."""
        return _Heard(progress, self._looks)

    def status(self) -> str:
        reached = self._looks.reached
        return f"settled after {reached.asked:,} of {reached.planned:,}" if self.settled else f"not settled before {reached.asked:,}"

    def _check(self, base: Side) -> None:
        """UsageError where the base's trials are not those that would be asked."""
        keys = {place: point.key[:KEY_DIGITS] for place, point in self._base.items()}
        wanted = set(self._looks.places)
        ours = {place: trial.key[:KEY_DIGITS] for trial in self._plan.trials(self._cues) if (place := _place(trial)) in wanted}
        if not ours:
            raise UsageError(f"no trial of this sweep stands in {base.name}: niah baseline show says which lengths and depths it has")
        if any(keys[place] != key for place, key in ours.items()):
            raise UsageError(
                f"the prompts of this sweep are others than those of {base.name} (needles, corpora, tokenizer, template, cue or sampling): "
                "niah baseline show says what it was made with"
            )


class _Heard:
    """Passes everything on."""

    def __init__(self, progress: Progress, looks: Looks):
        self._progress, self._looks = progress, looks

    def begin(self, model: str, total: int, done: int) -> None:
        self._progress.begin(model, total, done)

    def watch(self, spending: Callable[[], str]) -> None:
        self._progress.watch(spending)

    def recorded(self, record: Record) -> None:
        latest = Latest()
        latest.add(record)
        for _, point in latest.points():
            self._looks.add(point)
        self._progress.recorded(record)

    def note(self, text: str) -> None:
        self._progress.note(text)

    def end(self) -> None:
        self._progress.end()


def _place(trial: Trial) -> tuple[int, int, float]:
    return trial.reshuffle, trial.length, trial.depths[0]


def _grid(experiment: Mapping[str, Any]) -> dict[str, Any]:
    return {name: experiment[name] for name in ("lengths", "depths", "reshuffles", "seed")}


def _agenda(rule: Rule, *, lengths: list[int], depths: list[float], reshuffles: int, seed: int) -> Agenda:
    order = balanced(len(lengths), len(depths), reshuffles, seed)
    return Agenda(rule=rule, places=[(r, lengths[i], depths[j]) for i, j, r in order], round_trials=reshuffles)
