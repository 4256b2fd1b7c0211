"""Lengths in the tested model's own tokens (`tokenizer = "provider"`): prompts are made with our tokenizer in its stead, and the
provider's count endpoint tells how long each text may be by ours so that the model's count comes up to the asked length and not above.

Texts of one corpus differ by several percent in tokens of one tokenizer for each of another, and by far more between corpora, so one
ratio a length would leave prompts too long or much too short. But the trials of one text (a reshuffle at a length) differ only in
needle, depth and cue. So one prompt of each text is counted, the one whose needle weighs most, and counted again if the first guess was
far off. Counts are kept in the cache folder and what came of them in run.json: nothing is counted twice, and a run goes on with the
prompts that it began with.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from niah.backends import Backend
from niah.backends.remote import RemoteBackend
from niah.errors import BadRequest, BadResponse, ContextOverflow, FatalError, ProviderError, UsageError
from niah.run.limits import Patience, patiently
from niah.run.plan import Plan, Text
from niah.run.runner import CONNECTING_AT_FIRST
from niah.run.store import write_whole
from niah.task.prompt import CUE
from niah.trial import Cue, Prompt, Record, Trial, canonical, fingerprint

MARGIN_TOKENS = 8
"""Of the model's tokens: needles other than the one that was counted may weigh so much more."""
CLOSE = 0.02
"""A text needs no second count if the first shows that its length was off by no more than this share."""
_MOST_COUNTS = 6
_WORD = re.compile(r"\w+|[^\w\s]")

Count: TypeAlias = Callable[[Prompt], Awaitable[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How long a text may be in our tokens. `tokens` by ours and `counted` by the provider's are those of the last prompt that was
    counted; None where the provider refused to count it, as longer than the window.
    """

    reshuffle: int
    length: int
    depth: float | None
    fitted_length: int
    tokens: int
    counted: int | None

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class Counts:
    """The counts of one model that are known, by prompt; kept in a file that may be lost. `asked` is how many were asked for now."""

    def __init__(self, path: Path):
        self._path = path
        self._known: dict[str, int] = {}
        self.asked = 0
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            self._known = {key: tokens for key, tokens in kept.items() if type(tokens) is int and tokens > 0}
        except (OSError, ValueError, AttributeError):
            pass

    def find(self, prompt: Prompt) -> int | None:
        return self._known.get(_name(prompt))

    def add(self, prompt: Prompt, tokens: int) -> None:
        self._known[_name(prompt)] = tokens
        self.asked += 1

    def save(self) -> None:
        """Write what is new; a cache that cannot be written is no reason to stop."""
        if self.asked:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(self._path, canonical(self._known).encode())
            except OSError:
                return


def counts_of(plan: Plan, model: str, cache: Path) -> Counts:
    """What is known of a model at the experiment's address."""
    name = fingerprint([model, plan.experiment.base_url, plan.experiment.raw])
    return Counts(cache / "counts" / f"{name}.json")


def _name(prompt: Prompt) -> str:
    return hashlib.sha256(canonical([prompt.cue_mode, prompt.messages()]).encode()).hexdigest()[:32]


def calibrate(
    plan: Plan, backends: Mapping[str, Backend], cues: Mapping[str, tuple[Cue, ...]], cache: Path, note: Callable[[str], None]
) -> dict[str, list[Fit]]:
    """The fits of all texts for each model. UsageError where a model's tokens cannot be counted, ProviderError where counting fails."""
    for model, backend in backends.items():
        countable(model, backend)
    return asyncio.run(_calibrate(plan, backends, cues, cache, note))


async def _calibrate(
    plan: Plan, backends: Mapping[str, Backend], cues: Mapping[str, tuple[Cue, ...]], cache: Path, note: Callable[[str], None]
) -> dict[str, list[Fit]]:
    fits: dict[str, list[Fit]] = {}
    for model, backend in backends.items():
        counts = counts_of(plan, model, cache)
        try:
            fits[model] = await fit(plan, cues[model], _counter(model, backend, counts, note))
        finally:
            counts.save()
            await backend.close()  # its connections belong to this event loop
        note(f"{model}: {_told(fits[model], counts)}")
    return fits


def countable(model: str, backend: Backend) -> Callable[[Prompt], Awaitable[int | None]]:
    """What asks for a model's count; UsageError where it is clear without asking that nobody can tell."""
    if not isinstance(backend, RemoteBackend):
        raise _uncountable(model, "It has no tokens of its own.")
    if not backend.counts:
        raise _uncountable(model, "Its provider has no endpoint that counts.")
    return backend.count


def _counter(model: str, backend: Backend, counts: Counts, note: Callable[[str], None]) -> Count:
    """Asks a provider for what is not known yet."""
    stop = asyncio.Event()
    ask = countable(model, backend)

    async def count(prompt: Prompt) -> int:
        known = counts.find(prompt)
        if known is not None:
            return known
        first = not counts.asked
        if first:
            note(f"{model}: counting prompts in its own tokens")
        try:
            patience = Patience(attempts_to_connect=CONNECTING_AT_FIRST) if first else Patience()
            tokens = await patiently(lambda: ask(prompt), patience, stop)
        except ProviderError as error:
            absent = isinstance(error, BadRequest | BadResponse) or (isinstance(error, FatalError) and error.kind == "unknown_model")
            if first and absent:
                raise _uncountable(model, str(error)) from None
            raise
        if not tokens:
            raise _uncountable(model, "Its provider counts no tokens in a prompt.")
        counts.add(prompt, tokens)
        return tokens

    return count


def _uncountable(model: str, why: str) -> UsageError:
    return UsageError(
        f"tokenizer 'provider': the tokens of model {model!r} cannot be counted. {why} Choose another tokenizer for the lengths: "
        "--tokenizer niah-8k, a tiktoken encoding, or the path of the model's tokenizer.json"
    )


class NotCounted(Exception):
    """A count is not among those that are known."""


def recall(plan: Plan, model: str, cues: tuple[Cue, ...], cache: Path) -> Plan | None:
    """The plan fitted by counts that are known, asking nobody; None if some are not."""
    counts = counts_of(plan, model, cache)

    async def count(prompt: Prompt) -> int:
        known = counts.find(prompt)
        if known is None:
            raise NotCounted
        return known

    try:
        return fitted(plan, asyncio.run(fit(plan, cues, count)))
    except NotCounted:
        return None


def fitted(plan: Plan, fits: Iterable[Fit]) -> Plan:
    """The plan with all texts as long as they may be."""
    return plan.fitted({(each.reshuffle, each.length, each.depth): each.fitted_length for each in fits})


def recorded(run: Mapping[str, Any]) -> dict[str, list[Fit]]:
    """The fits of each model that a run.json holds."""
    return {model: [Fit(**each) for each in fits] for model, fits in run.get("fits", {}).items()}


async def fit(plan: Plan, cues: tuple[Cue, ...], count: Count) -> list[Fit]:
    """One fit for each text of a plan. What is counted depends on the plan and on earlier counts only."""
    fits: list[Fit] = []
    ratios: dict[tuple[str, int], float] = {}
    ratio = 1.0
    for text, group in groupby(plan.trials(cues), key=Plan.text_of):
        trials = list(group)
        cell = (trials[0].corpus, trials[0].length)
        ratio = ratios.get(cell, ratio)
        shorter = fits[-1] if fits and fits[-1].depth is None and fits[-1].reshuffle == text[0] else None
        made = await _fit(plan, text, _heaviest(plan, trials, ratio), _guess(text[1], ratio, shorter), count)
        ratio = made.counted / made.tokens if made.counted else ratio
        ratios[cell] = ratio
        fits.append(made)
    return fits


def _guess(length: int, ratio: float, shorter: Fit | None) -> int:
    """Tokens of ours for a length, at a ratio of the provider's tokens to ours; a shorter text is the beginning of this one."""
    known = (shorter.tokens, shorter.counted) if shorter and shorter.counted else (0, 0)
    return max(1, known[0] + int((length - MARGIN_TOKENS - known[1]) / ratio))


async def _fit(plan: Plan, text: Text, trial: Trial, most: int, count: Count) -> Fit:
    """`most`: our tokens, as a first guess. The text that is added or taken away may be denser or thinner than the rest by a quarter."""
    reshuffle, length, depth = text
    target, tokens, counted = max(1, length - MARGIN_TOKENS), 0, None
    for _ in range(_MOST_COUNTS):
        try:
            prompt = plan.materials.maker.make(replace(trial, fitted_length=most))
        except UsageError as error:
            raise UsageError(f"{error}. These are tokens of niah-8k: {most:,} are about {length:,} of the model's own") from None
        try:
            counted = await count(prompt)
        except ContextOverflow:  # then the trials will be refused as well, which is an outcome and no error
            break
        tokens = prompt.tokens
        free = (target - counted) * tokens / counted
        off = tokens + free - most
        most = tokens + int(free / 1.25 if free > 0 else free * 1.25 - 1)
        if abs(off) <= CLOSE * tokens:
            break
    return Fit(reshuffle=reshuffle, length=length, depth=depth, fitted_length=most, tokens=tokens, counted=counted)


def _heaviest(plan: Plan, trials: Sequence[Trial], ratio: float) -> Trial:
    """The trial whose needle and question should have the most tokens of the provider's beyond those that `ratio` gives them.

    Large vocabularies have about one token a word; ours cuts rare words into many.
    """
    needles, tokenizer = plan.materials.needles.by_id(), plan.materials.tokenizer

    def excess(trial: Trial) -> float:
        own = [needles[id_] for id_ in trial.needles]
        parts = [text for needle in own for text in (needle.text, needle.question, *needle.distractors[: trial.distractors])]
        said = " ".join([*parts, CUE] if trial.cue != "off" else parts)
        return len(_WORD.findall(said)) - ratio * tokenizer.count(said)

    return max(trials, key=lambda trial: (excess(trial), trial.cue == "prefill"))


def _told(fits: Sequence[Fit], counts: Counts) -> str:
    ratios = [each.counted / each.tokens for each in fits if each.counted]
    of_ours = f"; {min(ratios):.2f} to {max(ratios):.2f} of its tokens for one of ours" if ratios else ""
    return f"{len(fits):,} texts fitted to its own tokens with {counts.asked:,} counts{of_ours}"


def observed(records: Iterable[Record]) -> list[str]:
    """For each model one line: how the input tokens that it reported compare with the lengths that were asked for in its own tokens."""
    shares: dict[str, list[float]] = {}
    for record in records:
        if record.trial.fitted_length is not None and record.reply is not None and record.reply.usage.input:
            shares.setdefault(record.model, []).append(record.reply.usage.input / record.trial.length)
    lines: list[str] = []
    for model, each in shares.items():
        above = sum(share > 1 for share in each)
        spread = f"median of {len(each):,} prompts; {min(each):.1%} to {max(each):.1%}"
        line = f"{model} reported {median(each):.1%} of the asked lengths ({spread})"
        lines.append(f"{line}; {above:,} were longer than asked" if above else line)
    return lines
