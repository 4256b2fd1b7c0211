"""Prompts: a trial becomes text. `PromptMaker.make(trial)` is pure: the same trial gives the same bytes everywhere."""

import tomllib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from niah import sentences
from niah.errors import UsageError, did_you_mean
from niah.task.corpus import Corpus
from niah.task.haystack import Haystack, Insert
from niah.task.measure import Measures
from niah.task.needles import NeedleSet, given_away
from niah.task.seeded import Draw
from niah.task.tokens import Tokenizer
from niah.trial import Cue, Needle, Placement, Prompt, Trial, around_context, fingerprint

CUE = "Here is the most relevant sentence in the documents:"
ASSEMBLY = 1
"""Raised whenever the same inputs would give other bytes than before: it is part of every trial's key."""
_KEPT_HAYSTACKS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """The words around the context. `user` holds {context} and {question}; the cue, if any, becomes its last paragraph."""

    name: str
    system: str
    user: str

    @property
    def fingerprint(self) -> str:
        return fingerprint([asdict(self), CUE, ASSEMBLY, sentences.VERSION])


_SYSTEM = "You answer questions about documents. Answer briefly and completely, and only from what the documents say."
_SOMETHING_HIDDEN = (
    "One important thing is hidden in a long text that does not matter. Find it and keep it in mind: a question about it comes at the end."
)
TEMPLATES: Mapping[str, Template] = {
    template.name: template
    for template in (
        Template(name="default", system=_SYSTEM, user="{context}\n\n{question}"),
        Template(name="question-first", system=_SYSTEM, user="{question}\n\n{context}"),
        Template(name="question-twice", system=_SYSTEM, user="{question}\n\n{context}\n\n{question}"),
        Template(name="plain", system="", user="{context}\n\n{question}"),
        Template(name="passkey", system="", user=f"{_SOMETHING_HIDDEN}\n\n{{context}}\n\n{{question}}"),
    )
}
ASKED_BEFORE = ("question-first", "question-twice")
"""Prompts of these have nothing in common in front of the text, for their questions differ."""


def load_template(name: str) -> Template:
    """A template by its name, or from a TOML file with `system` and `user`; UsageError says what is wrong with it."""
    if name in TEMPLATES:
        return TEMPLATES[name]
    path = Path(name).expanduser()
    if path.suffix != ".toml":
        raise UsageError(f"template {name!r} is unknown; {did_you_mean(name, TEMPLATES)}. A template of your own is given as a .toml file.")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"template {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"template {path} is no valid TOML: {error}") from None
    system, user = data.get("system", ""), data.get("user", "")
    if set(data) - {"system", "user"} or not isinstance(system, str) or not isinstance(user, str):
        raise UsageError(f"template {path}: it has the keys 'system' (optional) and 'user', both strings, and no others")
    if user.count("{context}") != 1 or user.count("{question}") < 1:
        raise UsageError(f"template {path}: 'user' must hold {{context}} once and {{question}} at least once")
    return Template(name=path.stem, system=system, user=user)


class PromptMaker:
    """Makes prompts of trials over some corpora. Haystacks of the last few reshuffles are kept: trials come in that order."""

    def __init__(
        self, corpora: Mapping[str, Corpus], needles: NeedleSet, tokenizer: Tokenizer, template: Template, *, cache: Path | None = None
    ):
        self._corpora = corpora
        self._needles = needles.by_id()
        self._tokenizer = tokenizer
        self._template = template
        self._counted: dict[str, int] = {}
        self._system_tokens, self._cue_tokens = tokenizer.count(template.system), tokenizer.count(CUE)
        self._measures = {
            name: Measures(
                tokenizer, cache / "measures" / f"{corpus.fingerprint}-{tokenizer.fingerprint}-{sentences.VERSION}.npz" if cache else None
            )
            for name, corpus in corpora.items()
        }
        self._haystacks: OrderedDict[tuple[str | int, ...], Haystack] = OrderedDict()

    def make(self, trial: Trial) -> Prompt:
        """The prompt of a trial; CorpusTooShort or UsageError when it cannot be made."""
        needles = [self._needles[id_] for id_ in trial.needles]
        question = " ".join(needle.question for needle in needles)
        before, after = around_context(self._template.user, question, CUE if trial.cue == "user" else "")
        fixed = self._system_tokens + (self._cue_tokens if trial.cue == "prefill" else 0)
        inserts = [self._insert(needle.text, depth) for needle, depth in zip(needles, trial.depths, strict=True)]
        inserts += [self._insert(text, depth) for text, depth in _distractors(trial, needles)]
        filled = self._haystack(trial).fill(inserts, before=before, after=after, tokens=trial.most_tokens, elsewhere=fixed)
        placements = (
            Placement(needle=id_, asked=depth, actual=placed.depth, token=placed.token)
            for id_, depth, placed in zip(trial.needles, trial.depths, filled.placed, strict=False)
        )
        return Prompt(
            system=self._template.system,
            context=filled.context,
            question=question,
            cue=CUE if trial.cue != "off" else "",
            cue_mode=trial.cue,
            layout=self._template.user,
            tokens=filled.tokens,
            placements=tuple(placements),
            sampling=trial.sampling,
            shared_characters=filled.shared_characters if trial.haystack == "shared" else 0,
        )

    def given_away(self, trials: Iterator[Trial]) -> list[tuple[str, str, str]]:
        """(corpus, document, needle) wherever a document of these trials' haystacks holds all key facts of a needle."""
        used: dict[str, set[int]] = {name: set() for name in self._corpora}
        for trial in trials:
            haystack = self._haystack(trial)
            haystack.read(trial.most_tokens)
            used[trial.corpus].update(haystack.documents)
        found: list[tuple[str, str, str]] = []
        for name, numbers in used.items():
            documents = (self._corpora[name].document(number) for number in sorted(numbers))
            pairs = given_away(list(self._needles.values()), ((document.id, document.text) for document in documents))
            found += [(name, document, needle) for document, needle in pairs]
        return found

    def save(self) -> None:
        """Keep what was learnt about the documents for the next run."""
        for measures in self._measures.values():
            measures.save()

    def _insert(self, text: str, depth: float) -> Insert:
        if text not in self._counted:
            self._counted[text] = self._tokenizer.count(text)
        return Insert(text=text, depth=depth, tokens=self._counted[text])

    def _haystack(self, trial: Trial) -> Haystack:
        own = (trial.length, *map(str, trial.depths)) if trial.haystack == "independent" else ()
        key = (trial.corpus, trial.seed, trial.reshuffle, *own)
        found = self._haystacks.pop(key, None)
        if found is None:
            draw = Draw("reshuffle", *key[1:])
            found = Haystack(self._corpora[trial.corpus], self._tokenizer, self._measures[trial.corpus], draw)
        self._haystacks[key] = found
        while len(self._haystacks) > _KEPT_HAYSTACKS:
            self._haystacks.popitem(last=False)
        return found


def _distractors(trial: Trial, needles: list[Needle]) -> list[tuple[str, float]]:
    """The trial's number of near misses a needle, at depths drawn for this reshuffle."""
    found: list[tuple[str, float]] = []
    for needle in needles if trial.distractors else ():
        if len(needle.distractors) < trial.distractors:
            raise UsageError(f"needle {needle.id!r} has {len(needle.distractors)} distractors, {trial.distractors} are asked for")
        draw = Draw("distractors", trial.seed, trial.reshuffle, needle.id)
        found += [(text, draw.fraction()) for text in needle.distractors[: trial.distractors]]
    return found


def resolve_cue(cue: str, preferred: Cue) -> Cue:
    """The cue mode that is used: `auto` is what the backend prefers."""
    if cue == "auto":
        return preferred
    if cue in ("off", "user", "prefill"):
        return cue
    raise UsageError(f"cue {cue!r} is unknown; {did_you_mean(cue, ['off', 'user', 'prefill', 'auto'])}")
