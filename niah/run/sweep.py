"""A sweep from its experiment to its report: gather, plan, check, ask what is missing, report."""

import asyncio
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from niah import __version__
from niah.backends import Backend, Connection, open_backend
from niah.backends.batching import batch_format
from niah.backends.local import LocalBackend
from niah.backends.models import Capabilities
from niah.backends.remote import RemoteBackend
from niah.config import Experiment
from niah.errors import IncompleteError, NiahError, UsageError
from niah.report import write as report
from niah.report.spending import Spent, cue_note
from niah.report.stats import Results, Where
from niah.run.budget import Budget
from niah.run.calibrate import Fit, calibrate, fitted, observed, recorded
from niah.run.plan import Materials, Plan, gather
from niah.run.runner import Progress
from niah.run.session import Batches, Session, budget_of, state_of
from niah.run.settling import Aim, Settling, check_declared
from niah.run.spent import spent_in, still_to_pay
from niah.run.store import RUN, Store, describe, read
from niah.run.truncation import cut_at_the_window
from niah.task.needles import NeedleSet
from niah.task.prompt import resolve_cue
from niah.task.snapshot import cache_folder
from niah.task.tokens import PROVIDER
from niah.trial import Cue, fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """How a sweep ended. `stopped` is None when every trial was asked.

    `failed` counts trials that a resume would ask again, and `why` is the error of the last one.
    """

    folder: Path
    results: Results | None
    files: tuple[Path, ...]
    missing: int
    failed: int
    why: str = ""
    stopped: NiahError | None = None
    interrupted: bool = False
    spent: Spent | None = None


def cues_of(experiment: Experiment, model: str, backend: Backend) -> tuple[Cue, ...]:
    """The cue modes that a model is asked with; UsageError for one that it does not take."""
    cues: tuple[Cue, ...] = tuple(dict.fromkeys(resolve_cue(cue, backend.preferred_cue) for cue in experiment.cue))
    for cue in cues:
        if cue not in backend.cues:
            raise UsageError(f"model {model!r} does not take a prefilled answer: use the cue modes off, user or auto")
    return cues


def connection_of(experiment: Experiment) -> Connection:
    """How the experiment's models are reached."""
    return Connection(
        base_url=experiment.base_url,
        timeout_seconds=experiment.timeout_seconds,
        key_variable=experiment.key_variable,
        raw=experiment.raw,
        instances=experiment.instances,
        kv_memory_bytes=experiment.kv_memory,
        cluster=experiment.cluster,
    )


def open_backends(experiment: Experiment) -> dict[str, Backend]:
    """All models of an experiment, opened before anything is asked of the first."""
    connection = connection_of(experiment)
    return {model: open_backend(model, connection) for model in experiment.models}


def capabilities_of(backend: Backend) -> Capabilities:
    """What is known of a backend's model; a local reader costs nothing that is known of."""
    if isinstance(backend, LocalBackend):
        return Capabilities(model="local", window_tokens=backend.window_tokens, prefill=True)
    return backend.capabilities if isinstance(backend, RemoteBackend) else Capabilities(model="local")


def choose_folder(experiment: Experiment, results: Path, aim: Aim | None = None) -> Path:
    """The run's folder under `results`: an unfinished run of the same experiment if there is one, else a new one of today.

    The name holds the date, the experiment's name and a hash of what it measures; the same command on the same day comes
    back to the same run.
    """
    mark = fingerprint({**experiment.identity(), **(aim.declared() if aim is not None else {})})[:8]
    today = results / f"{datetime.now(UTC).date().isoformat()}-{experiment.name}-{mark}"
    unfinished = [path for path in sorted(results.glob(f"*-{mark}")) if _unfinished(path)]
    return unfinished[-1] if unfinished and not today.exists() else today


def _unfinished(folder: Path) -> bool:
    try:
        return "finished" not in describe(folder)
    except UsageError:  # somebody's folder, or a damaged one: not ours to go on with
        return False


def sweep(  # noqa: PLR0913
    experiment: Experiment,
    folder: Path,
    progress: Progress,
    confirm: Callable[[float], None] = lambda _: None,
    batches: Batches = "no",
    *,
    aim: Aim | None = None,
) -> Swept:
    """Ask all missing trials of an experiment, live or in batches, and write the reports into `folder`.

    `confirm` is told what is still to be paid at most, in dollars and as far as prices are known, and may raise to call it off.
    With an `aim` each model is asked only until its verdict against a baseline is certain.
    Raises NiahError only before the first request; what stops it later stands in the result, with everything kept.
    """
    for model in experiment.models if batches != "no" else ():
        batch_format(model)
    materials = gather(experiment, cache=cache_folder())
    plan = Plan(experiment, materials)
    backends = open_backends(experiment)
    for backend in backends.values():
        backend.ready()
    cues = {model: cues_of(experiment, model, backend) for model, backend in backends.items()}
    check_declared(folder, aim, cues, batch=batches != "no")
    progress.note(f"reading the haystacks: {', '.join(materials.corpora)}")
    plans, fits = _fitted(plan, backends, cues, folder, progress)
    _check(experiment, plans, backends, cues, progress)
    settling = {model: Settling(aim, plan, cues[model]) for model, plan in plans.items()} if aim is not None else {}
    confirm(still_to_pay(plans, backends, cues, folder, batch=batches != "no"))
    with Store(folder) as store:
        told = description(experiment, materials, {model: list(modes) for model, modes in cues.items()}, fits)
        store.begin(told | (aim.declared() if aim is not None else {}))
        budget = budget_of(folder, experiment.max_cost, experiment.max_tokens)
        progress.watch(budget.status)
        session = Session(
            plans=plans, backends=backends, cues=cues, store=store, progress=progress, budget=budget, batches=batches, settling=settling
        )
        stopped, interrupted = asyncio.run(session.ask_all())
        _withhold(store, progress)
        for line in observed(read(folder)) if fits else ():
            progress.note(line)
        swept = conclude(folder, stopped=stopped, interrupted=interrupted)
        if (settling and all(each.settled for each in settling.values())) or not (swept.missing or swept.failed):
            store.finish()
    return swept


def _check(
    experiment: Experiment,
    plans: Mapping[str, Plan],
    backends: Mapping[str, Backend],
    cues: Mapping[str, tuple[Cue, ...]],
    progress: Progress,
) -> None:
    """Everything that can be wrong before the first request; what is only doubtful becomes a warning."""
    for warning in check_all(plans.values(), tuple(dict.fromkeys(cue for modes in cues.values() for cue in modes))):
        progress.note(f"warning: {warning}")
    for model, backend in backends.items():
        if isinstance(backend, RemoteBackend):
            Budget(max_dollars=experiment.max_cost).check(model, backend.capabilities)
    if different := cue_note(cues):
        progress.note(f"warning: {different}")


def _fitted(
    plan: Plan, backends: Mapping[str, Backend], cues: Mapping[str, tuple[Cue, ...]], folder: Path, progress: Progress
) -> tuple[dict[str, Plan], dict[str, list[Fit]]]:
    """A plan for each model, and what made it: the same for all, unless lengths are in each model's own tokens.

    A run that began goes on with the fits that it recorded.
    """
    if plan.experiment.tokenizer != PROVIDER:
        return dict.fromkeys(backends, plan), {}
    there = describe(folder) if (folder / RUN).exists() else {}
    fits = recorded(there) if there.get("identity") == plan.experiment.identity() else {}
    fits = fits or calibrate(plan, backends, cues, cache_folder(), progress.note)
    return {model: fitted(plan, fits[model]) for model in backends}, fits


def check_all(plans: Iterable[Plan], cues: tuple[Cue, ...]) -> list[str]:
    """The warnings of different plans of one experiment: see `Plan.check`."""
    return list(dict.fromkeys(warning for plan in dict.fromkeys(plans) for warning in plan.check(cues)))


def _withhold(store: Store, progress: Progress) -> None:
    """Take the scores from answers whose prompts, as it showed later, had been cut by the server."""
    cut = cut_at_the_window(read(store.folder))
    if cut:
        store.rewrite(replace(record, scores=()) if (record.model, record.trial.key) in cut else record for record in read(store.folder))
        progress.note(f"{len(cut)} earlier answers are not scored after all: the server had cut their prompts too")


def description(
    experiment: Experiment, materials: Materials, cues: Mapping[str, list[str]], fits: Mapping[str, Sequence[Fit]] | None = None
) -> dict[str, Any]:
    """What run.json holds: enough to know what was measured, and to score and report it again anywhere."""
    import tiktoken

    return {
        "format": 1,
        "niah": __version__,
        "identity": experiment.identity(),
        "fingerprints": materials.fingerprints(),
        "experiment": experiment.model_dump(mode="json"),
        "cues": dict(cues),
        "corpora": {name: corpus.about for name, corpus in materials.corpora.items()},
        "versions": {"python": platform.python_version(), "tiktoken": tiktoken.__version__, "platform": platform.platform(terse=True)},
        "needles": materials.needles.to_json(),
        **({"fits": {model: [each.to_json() for each in some] for model, some in fits.items()}} if fits else {}),
    }


def about(folder: Path) -> dict[str, str]:
    """What a heatmap's title says that the records do not know."""
    needles = NeedleSet.from_json(describe(folder)["needles"])
    return {"needles": needles.name}


def planned(folder: Path) -> dict[Where, int]:
    """How many trials the run's experiment has in each cell of each model and cue mode."""
    there = describe(folder)
    experiment = there["experiment"]
    cells = [(length, depth) for length in experiment["lengths"] for depth in experiment["depths"]]
    return {
        (model, cue, length, depth): experiment["reshuffles"]
        for model, cues in there["cues"].items()
        for cue in cues
        for length, depth in cells
    }


def conclude(folder: Path, *, stopped: NiahError | None, interrupted: bool) -> Swept:
    """Write the reports of what is there, and count what is not."""
    state = state_of(folder)
    failures = [failure for failure in state.values() if failure is not None]
    swept = Swept(
        folder=folder,
        results=None,
        files=(),
        missing=max(0, sum(planned(folder).values()) - len(state)),
        failed=len(failures),
        why=failures[-1].message if failures else "",
        stopped=stopped,
        interrupted=interrupted,
    )
    if not state:
        return swept
    try:
        written = report.write(read(folder), folder, planned=planned(folder), about=about(folder), spent=spent_in([folder]))
    except IncompleteError:
        if stopped is None and not interrupted:
            raise
        return swept  # what stopped the sweep, a full disk say, is the news
    missing = sum(summary.missing or 0 for summary in written.results.summaries.values())
    return replace(swept, results=written.results, files=tuple(written.files), missing=missing, spent=written.spent)
