"""The plan: which trials an experiment consists of, and whether they can be made, before anything is asked or paid."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

from niah.config import Experiment
from niah.errors import CorpusError, UsageError
from niah.run.order import balanced
from niah.task.corpus import Corpus, open_corpus
from niah.task.deal import deal
from niah.task.needles import NeedleSet, load_needles
from niah.task.prompt import PromptMaker, Template, load_template
from niah.task.score import scorer
from niah.task.tokens import Tokenizer, open_tokenizer
from niah.trial import Cue, Fingerprints, Trial

Text: TypeAlias = tuple[int, int, float | None]
"""Reshuffle, length and, where each cell has a text of its own, depth: trials of one of these differ in no more than needle and cue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Materials:
    """What an experiment's names stand for."""

    corpora: dict[str, Corpus]
    needles: NeedleSet
    tokenizer: Tokenizer
    template: Template
    maker: PromptMaker

    def fingerprints(self) -> dict[str, Any]:
        """The fingerprints of everything, for run.json."""
        return {
            "corpora": {name: corpus.fingerprint for name, corpus in self.corpora.items()},
            "needles": self.needles.fingerprint,
            "tokenizer": self.tokenizer.fingerprint,
            "template": self.template.fingerprint,
        }


def gather(experiment: Experiment, *, cache: Path | None = None) -> Materials:
    """Open corpora, needles, tokenizer and template; UsageError for the first that cannot be had."""
    for name in experiment.scorers:
        if name == "judge":
            raise UsageError("scorer 'judge' asks another model: sweep first, then run niah rescore RUN --scorer judge --judge MODEL")
        scorer(name)
    tokenizer, template = open_tokenizer(experiment.tokenizer), load_template(experiment.template)
    needles = load_needles(experiment.needles, seed=experiment.seed)
    corpora: dict[str, Corpus] = {}
    for name in experiment.corpora:
        corpus = open_corpus(name)
        if corpus.name in corpora:
            raise UsageError(f"two corpora are called {corpus.name!r}: rename one of the files or folders")
        corpora[corpus.name] = corpus
    maker = PromptMaker(corpora, needles, tokenizer, template, cache=cache)
    return Materials(corpora=corpora, needles=needles, tokenizer=tokenizer, template=template, maker=maker)


class Plan:
    """The trials of an experiment over its materials, in the order in which they are asked.

    `fitted` says how long each text must be in our tokens, where lengths are in those of the tested model.
    """

    def __init__(self, experiment: Experiment, materials: Materials, fitted: Mapping[Text, int] | None = None):
        self.experiment = experiment
        self.materials = materials
        self._fitted = fitted or {}
        self._needles = [needle.id for needle in materials.needles.needles]
        self._sampling = experiment.sampling.typed()
        shared = materials.fingerprints()
        self._fingerprints = {
            name: Fingerprints(corpus=corpus, needles=shared["needles"], tokenizer=shared["tokenizer"], template=shared["template"])
            for name, corpus in shared["corpora"].items()
        }
        self._dealt = deal(len(self._needles), len(experiment.lengths), len(experiment.depths), experiment.reshuffles, experiment.seed)

    def fitted(self, lengths: Mapping[Text, int]) -> "Plan":
        """The plan for a model in whose own tokens the texts have these lengths in ours."""
        return Plan(self.experiment, self.materials, lengths)

    @staticmethod
    def text_of(trial: Trial) -> Text:
        """Which text a trial reads."""
        return trial.reshuffle, trial.length, trial.depths[0] if trial.haystack == "independent" else None

    def trials(self, cues: tuple[Cue, ...]) -> Iterator[Trial]:
        """All trials, made one at a time: reshuffle by reshuffle, because these share their text, and within it by length."""
        names = list(self.materials.corpora)
        for reshuffle in range(self.experiment.reshuffles):
            corpus = self.materials.corpora[names[reshuffle % len(names)]]
            for i in range(len(self.experiment.lengths)):
                for j in range(len(self.experiment.depths)):
                    for cue in cues:
                        yield self._trial(corpus, i, j, reshuffle, cue)

    def trials_for_caches(self, cues: tuple[Cue, ...], *, ahead: bool = True) -> Iterator[Trial]:
        """All trials in the order that prompt caches want: in a reshuffle the deepest needle first, which fills the cache for the others.

        `ahead`: the first one of a reshuffle comes before the last ones of the reshuffle in front of it, so that nobody waits for it.
        """
        waiting: list[Trial] = []
        for _, group in groupby(self.trials(cues), key=lambda trial: trial.reshuffle):
            ordered = sorted(group, key=lambda trial: trial.length * trial.depths[0], reverse=True)
            first = 1 if ahead else len(ordered)
            yield from ordered[:first]
            yield from waiting
            waiting = ordered[first:]
        yield from waiting

    def trials_balanced(self, cues: tuple[Cue, ...]) -> Iterator[Trial]:
        """All trials in an order every beginning of which is fair to all reshuffles, lengths and depths."""
        names, experiment = list(self.materials.corpora), self.experiment
        for i, j, reshuffle in balanced(len(experiment.lengths), len(experiment.depths), experiment.reshuffles, experiment.seed):
            for cue in cues:
                yield self._trial(self.materials.corpora[names[reshuffle % len(names)]], i, j, reshuffle, cue)

    def count(self, cues: tuple[Cue, ...]) -> int:
        """The number of trials for a model."""
        return len(self.experiment.lengths) * len(self.experiment.depths) * self.experiment.reshuffles * len(cues)

    def input_tokens(self, cues: tuple[Cue, ...]) -> int:
        """Tokens of all prompts for a model, in the experiment's tokenizer: an upper bound within one sentence a prompt."""
        return sum(self.experiment.lengths) * len(self.experiment.depths) * self.experiment.reshuffles * len(cues)

    def check(self, cues: tuple[Cue, ...]) -> list[str]:
        """Make sure that every prompt can be made. Returns warnings: documents that give a needle away.

        Raises CorpusTooShort or UsageError for a length that cannot be filled, CorpusError for the warnings if the experiment is strict.
        """
        maker, shortest, longest = self.materials.maker, self.experiment.lengths[0], self.experiment.lengths[-1]
        seen: set[tuple[str, str]] = set()
        for trial in self.trials(cues):
            corpus_first = (trial.corpus, "longest") not in seen and trial.length == longest
            needle_first = trial.needles[0] not in {needle for _, needle in seen} and trial.length == shortest
            if corpus_first or needle_first:
                maker.make(trial)
                seen |= {(trial.corpus, "longest")} if corpus_first else {("", trial.needles[0])}
        warnings = [
            f"document {document!r} of corpus {corpus!r} holds all key facts of the needle {needle!r}: an answer may come from there"
            for corpus, document, needle in maker.given_away(trial for trial in self.trials(cues[:1]) if self._reads_on(trial))
        ]
        if warnings and self.experiment.strict:
            raise CorpusError(f"{warnings[0]} ({len(warnings)} such documents; strict = true)")
        maker.save()
        names = list(self.materials.corpora)
        if len(names) > self.experiment.reshuffles:
            unused = ", ".join(names[self.experiment.reshuffles :])
            warnings.insert(0, f"{self.experiment.reshuffles} reshuffles reach only so many corpora; not used: {unused}")
        return warnings

    def _reads_on(self, trial: Trial) -> bool:
        """Whether a trial reads text that no other trial of the check reads: with shared haystacks only the longest do."""
        if trial.haystack == "independent":
            return True
        return trial.length == self.experiment.lengths[-1] and trial.depths[0] == self.experiment.depths[0]

    def _trial(self, corpus: Corpus, i: int, j: int, reshuffle: int, cue: Cue) -> Trial:
        materials, experiment = self.materials, self.experiment
        text = (reshuffle, experiment.lengths[i], experiment.depths[j] if experiment.haystack == "independent" else None)
        return Trial(
            corpus=corpus.name,
            needles=(self._needles[int(self._dealt[i, j, reshuffle])],),
            length=experiment.lengths[i],
            depths=(experiment.depths[j],),
            reshuffle=reshuffle,
            seed=experiment.seed,
            template=materials.template.name,
            cue=cue,
            sampling=self._sampling,
            tokenizer=materials.tokenizer.name,
            haystack=experiment.haystack,
            distractors=experiment.distractors,
            fingerprints=self._fingerprints[corpus.name],
            fitted_length=self._fitted.get(text),
        )
