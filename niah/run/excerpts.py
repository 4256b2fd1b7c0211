"""The text around the needles of stored trials: their prompts are made anew, for no record holds them."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from niah.errors import NiahError
from niah.report.page_data import Excerpt
from niah.run.store import describe
from niah.task.corpus import Corpus, open_corpus
from niah.task.needles import NeedleSet
from niah.task.prompt import PromptMaker, load_template
from niah.task.snapshot import cache_folder
from niah.task.tokens import open_tokenizer
from niah.trial import Fingerprints, Needle, Trial

CHARACTERS = 260
"""Of the prompt on each side of a needle, at most."""
_PARTS = {"corpus": "the corpus' text", "needles": "the needle set", "tokenizer": "the tokenizer", "template": "the template"}


class Excerpts:
    """Excerpts for the trials of some runs. What was made is kept, so that trials can be given again with newer ones.

    A prompt is made only of the very text that the trial names by its fingerprints; where that is not at hand, the reason is kept.
    """

    def __init__(self, folders: Sequence[Path]):
        self._folders = folders
        self._makers: dict[tuple[str, Fingerprints], tuple[PromptMaker, Mapping[str, Needle]]] = {}
        self._there: dict[str, Fingerprints] = {}
        self._failures: dict[str, str] = {}
        self._opened = False
        self.made: dict[str, Sequence[Excerpt]] = {}
        """By the key of their trial, one for each needle."""
        self.absent: dict[str, str] = {}
        """By corpus: why there are none."""
        self.complete = True
        """Whether the last call came to its end."""

    def make(self, trials: Iterable[Trial], *, most_seconds: float | None = None) -> None:
        """Make the excerpts of trials; after `most_seconds` of CPU time the rest is left to the next call."""
        if not self._opened:
            self._open()
        started, self.complete, used = time.process_time(), True, set[tuple[str, Fingerprints]]()
        for trial in trials:
            if trial.key in self.made or trial.corpus in self.absent:
                continue
            if most_seconds is not None and time.process_time() - started > most_seconds:
                self.complete = False
                break
            source = (trial.corpus, trial.fingerprints)
            try:
                if source not in self._makers:
                    self.absent[trial.corpus] = self._why_not(trial)
                    continue
                self.made[trial.key] = list(_excerpts(*self._makers[source], trial))
                used.add(source)
            except NiahError as error:
                self.absent[trial.corpus] = str(error)
        for source in used:
            self._makers[source][0].save()

    def _open(self) -> None:
        """Whatever of the runs' materials can still be had, corpus by corpus: one that is gone hides no other."""
        self._opened = True
        for folder in self._folders:
            there = describe(folder)
            experiment = there["experiment"]
            for name in experiment["corpora"]:
                try:
                    self._add(open_corpus(name), NeedleSet.from_json(there["needles"]), experiment)
                except (NiahError, OSError) as error:
                    self._failures[name] = self._failures[Path(name).name] = str(error)

    def _add(self, corpus: Corpus, needles: NeedleSet, experiment: dict[str, Any]) -> None:
        tokenizer, template = open_tokenizer(experiment["tokenizer"]), load_template(experiment["template"])
        prints = Fingerprints(
            corpus=corpus.fingerprint, needles=needles.fingerprint, tokenizer=tokenizer.fingerprint, template=template.fingerprint
        )
        self._there[corpus.name] = prints
        maker = PromptMaker({corpus.name: corpus}, needles, tokenizer, template, cache=cache_folder())
        self._makers[corpus.name, prints] = maker, needles.by_id()

    def _why_not(self, trial: Trial) -> str:
        there = self._there.get(trial.corpus)
        if there is None:
            return self._failures.get(trial.corpus, f"corpus {trial.corpus!r} is not at hand")
        names = (each.name for each in fields(Fingerprints))
        different = [_PARTS[name] for name in names if getattr(there, name) != getattr(trial.fingerprints, name)]
        return f"{' and '.join(different)} changed since the run"


def _excerpts(maker: PromptMaker, needles: Mapping[str, Needle], trial: Trial) -> Iterator[Excerpt]:
    """The text around each needle of a trial, in the order of its needles."""
    context = maker.make(trial).context
    for id_ in trial.needles:
        text = needles[id_].text
        start = context.find(text)
        end = start + len(text)
        yield Excerpt(_ending(context[max(0, start - CHARACTERS) : start]), _beginning(context[end : end + CHARACTERS]))


def _ending(text: str) -> str:
    """Without the part of a word at its beginning."""
    return text if len(text) < CHARACTERS else text[text.find(" ", 0, 40) + 1 :]


def _beginning(text: str) -> str:
    return text if len(text) < CHARACTERS else text[: max(text.rfind(" ", CHARACTERS - 40), 0) or CHARACTERS]
