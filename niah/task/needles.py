"""Needle sets: from needles/NAME.toml, from a user's file, or generated (`words`, `numbers`, `uuids`, `numbers:50`)."""

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from niah import resources, sentences
from niah.errors import UsageError, did_you_mean
from niah.task import generated
from niah.task.score import holds, normalise
from niah.trial import Needle, fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedleSet:
    """Needles under a name; the fingerprint stands for all their text."""

    name: str
    needles: tuple[Needle, ...]

    @property
    def fingerprint(self) -> str:
        return fingerprint([asdict(needle) for needle in self.needles])

    def by_id(self) -> dict[str, Needle]:
        return {needle.id: needle for needle in self.needles}

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "needle": [asdict(needle) for needle in self.needles]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "NeedleSet":
        return _parse(data, "run.json")


def set_names() -> list[str]:
    """The names of all sets that come with niah or lie in the working directory's needles/, and of the generated ones."""
    return sorted({*resources.names("needles"), *generated.KINDS})


def load_needles(name: str, *, seed: int = 0) -> NeedleSet:
    """The needle set `name` (a name, a file's path, or a generated kind); UsageError says what is wrong with it."""
    kind, _, count = name.partition(":")
    if kind in generated.KINDS:
        if count and not count.isdigit():
            raise UsageError(f"needles {name!r}: a number of needles is expected behind the colon, as in {kind}:50")
        return NeedleSet(name=name, needles=generated.needles(kind, int(count or 30), seed))
    path = Path(name).expanduser() if Path(name).suffix == ".toml" or Path(name).is_file() else resources.find("needles", name)
    if path is None:
        raise UsageError(f"needle set {name!r} is neither a known set nor a file; {did_you_mean(name, set_names())}")
    try:
        return _parse(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no valid TOML: {error}") from None


def check(needles: NeedleSet) -> Iterator[str]:
    """What is wrong with a set by itself: one line a problem."""
    for needle in needles.needles:
        text, question = normalise(needle.text), normalise(needle.question)
        if needle.text[-1] not in ".!?…。！？":
            yield f"{needle.id}: its text does not end like a sentence, so it would run into the one behind it"
        if not any(all(holds(normalise(part), fact) for fact in needle.answers) for part in sentences.split(needle.text)):
            yield f"{needle.id}: no single sentence of its text holds all its key facts"
        for fact in needle.answers:
            if not holds(text, fact):
                yield f"{needle.id}: no variant of the key fact {fact[0]!r} stands in its text"
            if holds(question, fact):
                yield f"{needle.id}: the question gives away the key fact {fact[0]!r}"
        for other in needles.needles:
            if other.id != needle.id and all(holds(normalise(other.text), fact) for fact in needle.answers):
                yield f"{needle.id}: the needle {other.id} answers its question too"
        for distractor in needle.distractors:
            if all(holds(normalise(distractor), fact) for fact in needle.answers):
                yield f"{needle.id}: a distractor holds all its key facts: {distractor[:60]!r}"


def given_away(needles: Sequence[Needle], documents: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Pairs (document id, needle id) of the documents (id, text) that hold all key facts of a needle: each would fake a hit."""
    for id_, text in documents:
        normalised = normalise(text)
        for needle in needles:
            if all(holds(normalised, fact) for fact in needle.answers):
                yield id_, needle.id


_KEYS = {"id", "text", "question", "answers", "distractors"}


def _parse(data: dict[str, Any], where: str) -> NeedleSet:
    rows = data.get("needle")
    if not isinstance(rows, list) or not rows:
        raise UsageError(f"{where}: a needle set has at least one [[needle]]")
    needles = tuple(_needle(row, f"{where}, needle {number}") for number, row in enumerate(rows, 1))
    ids = [needle.id for needle in needles]
    twice = next((id_ for id_ in ids if ids.count(id_) > 1), None)
    if twice is not None:
        raise UsageError(f"{where}: the id {twice!r} is used twice")
    return NeedleSet(name=str(data.get("name") or Path(where).stem), needles=needles)


def _needle(row: Any, where: str) -> Needle:
    if not isinstance(row, dict):
        raise UsageError(f"{where}: expected a table with id, text, question and answers")
    for key in row:
        if key not in _KEYS:
            raise UsageError(f"{where}: unknown key {key!r}; {did_you_mean(key, _KEYS)}")
    for key in ("id", "text", "question"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise UsageError(f"{where}: {key!r} is missing or empty")
    answers, distractors = row.get("answers"), row.get("distractors", [])
    if not isinstance(answers, list | tuple) or not answers or not all(_is_fact(fact) for fact in answers):
        raise UsageError(
            f'{where}: answers is a list of key facts, each a list of accepted variants, as in [["barley bread"], ["7", "seven"]]'
        )
    if not isinstance(distractors, list | tuple) or not all(isinstance(text, str) and text.strip() for text in distractors):
        raise UsageError(f"{where}: distractors is a list of sentences")
    return Needle(
        id=row["id"].strip(),
        text=" ".join(row["text"].split()),
        question=row["question"].strip(),
        answers=tuple(tuple(fact) for fact in answers),
        distractors=tuple(" ".join(text.split()) for text in distractors),
    )


def _is_fact(fact: Any) -> bool:
    return isinstance(fact, list | tuple) and bool(fact) and all(isinstance(variant, str) and normalise(variant) for variant in fact)
