"""What can be told without asking a model: the plan of an experiment, one prompt of it, what corpora and needle sets there are."""

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from niah import __version__, resources
from niah.backends import TABLE, Backend
from niah.backends.batching import batch_format
from niah.backends.models import packaged
from niah.backends.remote import PROVIDERS
from niah.config import Experiment
from niah.errors import UsageError, did_you_mean
from niah.report.labels import length_label
from niah.report.spending import cue_note, dollars
from niah.run.calibrate import countable, recall
from niah.run.money import ANSWER_TOKENS, THINKING_TOKENS, estimate
from niah.run.plan import Plan, gather
from niah.run.sweep import capabilities_of, check_all, cues_of, open_backends
from niah.task.corpus import REPEATED, builtin_names, hub_names, open_corpus
from niah.task.hub import load_sources
from niah.task.needles import check, given_away, load_needles, set_names
from niah.task.prompt import resolve_cue
from niah.task.snapshot import cache_folder, find_snapshot
from niah.task.tokens import PROVIDER
from niah.trial import Cue, Prompt, fingerprint

UNKNOWN = (
    f"output tokens: assumed are {ANSWER_TOKENS} an answer, and {THINKING_TOKENS:,} more where a model thinks; the cap allows more",
    "input tokens as the provider counts them: its tokenizer and chat template differ from ours",
)
STAND_IN = "lengths are taken as tokens of niah-8k"
DOLLARS = ("live_dollars", "cached_dollars", "batch_dollars")
SCANNED_DOCUMENTS = 1024
"""So many documents of an unlimited corpus are looked through for key facts."""


def overview(experiment: Experiment, *, batch: bool = False) -> dict[str, Any]:
    """Trials, requests and tokens for each model and in sum, warnings, and what is not known. Checks everything that a sweep checks.

    With `batch` it is the price of batches that is held against a cap.
    """
    for model in experiment.models if batch else ():
        batch_format(model)
    plan = Plan(experiment, gather(experiment, cache=cache_folder()))
    models: dict[str, dict[str, Any]] = {}
    everything: set[Any] = set()
    checked: dict[str, Plan] = {}
    for model, backend in open_backends(experiment).items():
        cues = cues_of(experiment, model, backend)
        checked[model] = _fitted(plan, model, backend, cues) or plan
        everything |= set(cues)
        trials, cap, known = plan.count(cues), experiment.sampling.max_output_tokens, capabilities_of(backend)
        prefix = model.partition("/")[0]
        bill = estimate(experiment, len(cues), known, prefix)
        free = prefix not in PROVIDERS
        models[model] = {
            "cues": list(cues),
            "trials": trials,
            "output_tokens_at_most": trials * cap,
            **(bill.to_json() | (dict.fromkeys(DOLLARS, 0.0) if free else {})),
            "prices": "none: a local reader" if free else known.source,
        }
    sums = _sums(list(models.values()))
    return {
        "experiment": experiment.name,
        "cells": len(experiment.lengths) * len(experiment.depths),
        "lengths": list(experiment.lengths),
        "depths": list(experiment.depths),
        "reshuffles": experiment.reshuffles,
        "corpora": list(plan.materials.corpora),
        "needles": len(plan.materials.needles.needles),
        "tokenizer": experiment.tokenizer,
        "models": models,
        "total": sums,
        "caps": _caps(experiment, sums, batch=batch),
        "warnings": [
            *filter(None, [cue_note({model: entry["cues"] for model, entry in models.items()})]),
            *check_all(checked.values(), tuple(sorted(everything))),
        ],
        "unknown": _unknown(plan, checked, models),
    }


def _sums(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counted = ("trials", "requests", "input_tokens", "cached_tokens", "output_tokens", "output_tokens_at_most")
    sums: dict[str, Any] = {name: sum(entry[name] for entry in entries) for name in counted}
    for name in DOLLARS:
        values = [entry[name] for entry in entries]
        sums[name] = None if None in values else sum(values)
    return sums


def _caps(experiment: Experiment, total: Mapping[str, Any], *, batch: bool) -> list[str]:
    """Whether the plan stays below the experiment's caps, a line each."""
    lines: list[str] = []
    amount, cap = total["batch_dollars" if batch else "live_dollars"], experiment.max_cost
    if cap is not None:
        way = "in batches" if batch else "live"
        if amount is None:
            lines.append(f"--max-cost ${cap:,.2f} cannot be kept: a price is unknown")
        else:
            lines.append(f"--max-cost ${cap:,.2f}: {_verdict(amount, cap, f'{dollars(amount)} {way}')}")
    if experiment.max_tokens is not None:
        used = total["input_tokens"] + total["output_tokens"]
        lines.append(f"--max-tokens {experiment.max_tokens:,}: {_verdict(used, experiment.max_tokens, f'{used:,} tokens')}")
    return lines


def _verdict(amount: float, cap: float, told: str) -> str:
    if amount <= cap:
        return f"the plan, {told}, stays below it"
    return f"the plan, {told}, is above it: the sweep would stop after about {cap / amount:.0%} of it"


def _fitted(plan: Plan, model: str, backend: Backend, cues: tuple[Cue, ...]) -> Plan | None:
    """The plan in a model's own tokens, where that is asked for and its counts are known from an earlier sweep."""
    if plan.experiment.tokenizer != PROVIDER:
        return None
    countable(model, backend)
    return recall(plan, model, cues, cache_folder())


def _unknown(plan: Plan, checked: Mapping[str, Plan], models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is not known: prices, output tokens, and input tokens where they are not the provider's own."""
    prices = [f"price of {name}: it is in no table, so its cost is unknown" for name in models if models[name]["live_dollars"] is None]
    if plan.experiment.tokenizer != PROVIDER:
        return [*prices, *UNKNOWN]
    own = [f"the tokens of {name}: the sweep counts them first, here {STAND_IN}" for name in models if checked[name] is plan]
    return [*prices, UNKNOWN[0], *own]


def cache_key(experiment: Experiment) -> str:
    """Names the corpora and the tokenizer of an experiment. A corpus of the hub, which need not be here yet, counts by its sources."""
    hub = hub_names()
    corpora = {
        name: fingerprint([asdict(source) for source in load_sources(name)]) if name in hub else open_corpus(name).fingerprint
        for name in experiment.corpora
    }
    return f"niah-{__version__}-{fingerprint({'corpora': corpora, 'tokenizer': experiment.tokenizer})}"


def one_prompt(experiment: Experiment, *, reshuffle: int, needle: str | None) -> tuple[Prompt, list[str], str]:
    """The prompt of the trial at the first length and depth, the needle sentences in it, and in whose tokens its length is, if that
    needs to be said. No model is needed: auto means user.
    """
    if reshuffle >= experiment.reshuffles:
        experiment = experiment.model_copy(update={"reshuffles": reshuffle + 1})
    plan = Plan(experiment, gather(experiment, cache=cache_folder()))
    cue = resolve_cue(experiment.cue[0], "user")
    note = ""
    if experiment.tokenizer == PROVIDER:
        model = experiment.models[0]
        fitted = recall(plan, model, tuple(dict.fromkeys(resolve_cue(each, "user") for each in experiment.cue)), cache_folder())
        plan, note = (fitted, f"as long as {model} gets it") if fitted else (plan, f"{model} is not counted yet: {STAND_IN}")
    trial = next(trial for trial in plan.trials((cue,)) if trial.reshuffle == reshuffle)
    needles = plan.materials.needles.by_id()
    if needle is not None:
        if needle not in needles:
            raise UsageError(f"needle {needle!r} is not in the set {experiment.needles!r}; {did_you_mean(needle, needles)}")
        trial = replace(trial, needles=(needle,))
    made = plan.materials.maker.make(trial)
    plan.materials.maker.save()
    return made, [needles[id_].text for id_ in trial.needles], note


def corpora() -> list[tuple[str, str, str]]:
    """(name, what it is, licence) of every corpus: built-in ones, and those of the hub with their state on this machine."""
    rows: list[tuple[str, str, str]] = []
    for name in builtin_names():
        kind = "one text repeated" if name == REPEATED else "generated"
        ours = name == REPEATED or name.removeprefix("builtin/") in hub_names()
        rows.append((name, f"built in, {kind}, unlimited", "MIT" if ours else "your own"))
    for name in hub_names():
        source, snapshot = load_sources(name)[0], find_snapshot(name)
        state = (
            f"prepared: {snapshot.count:,} documents, {snapshot.characters:,} characters" if snapshot else f"niah haystack prepare {name}"
        )
        rows.append((name, f"{source.dataset} ({state})", snapshot.licence if snapshot else source.licence))
    return rows


def needle_sets() -> list[tuple[str, str]]:
    """(name, what it is) of every needle set."""
    rows: list[tuple[str, str]] = []
    for name in set_names():
        path = resources.find("needles", name)
        if path is None:
            rows.append((name, f"generated: {name}:50 makes 50"))
            continue
        try:
            count = len(tomllib.loads(path.read_text(encoding="utf-8")).get("needle", []))
        except tomllib.TOMLDecodeError:
            count = 0
        where = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else "comes with niah"
        rows.append((name, f"{count} needle{'s' * (count != 1)}, {where}"))
    return rows


def check_needles(name: str, corpus_names: list[str]) -> Iterator[str]:
    """Problems of a needle set, by itself and against documents of corpora."""
    needles = load_needles(name)
    yield from check(needles)
    for corpus_name in corpus_names:
        corpus = open_corpus(corpus_name)
        numbers = range(corpus.size if corpus.size is not None else SCANNED_DOCUMENTS)
        documents = (corpus.document(number) for number in numbers)
        for document, needle in given_away(needles.needles, ((document.id, document.text) for document in documents)):
            yield f"{needle}: document {document!r} of corpus {corpus_name!r} holds all its key facts"


def backends() -> list[tuple[str, str, str, str]]:
    """(prefix, variables of its key, whether one is set, number of known models) of every backend."""
    rows: list[tuple[str, str, str, str]] = []
    for prefix in TABLE:
        provider = PROVIDERS.get(prefix)
        keys = provider.keys if provider else ()
        count = len(known_models(prefix))
        rows.append((prefix, ", ".join(keys), "yes" if any(map(os.environ.get, keys)) else "", f"{count:,}" if count else ""))
    return rows


def known_models(prefix: str) -> list[tuple[str, ...]]:
    """What is known of the models of a backend; UsageError for an unknown backend."""
    if prefix not in TABLE:
        raise UsageError(f"backend {prefix!r} is unknown; {did_you_mean(prefix, TABLE)}")
    provider = PROVIDERS.get(prefix)
    described = (provider.described_as if provider else "") or prefix
    rows: list[tuple[str, ...]] = []
    for name, known in packaged().items():
        if name.partition("/")[0] == described:
            prices = known.prices
            costs = [f"{price:g}" if price is not None else "" for price in (prices.input, prices.output)] if prices else ["", ""]
            prefill = {True: "yes", False: "no", None: ""}[known.prefill]
            window = length_label(known.window_tokens) if known.window_tokens else ""
            rows.append((name.partition("/")[2], window, prefill, known.thinking or "", *costs, known.retires or ""))
    return rows
