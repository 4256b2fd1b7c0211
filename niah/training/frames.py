"""Needles to train the bundled readers with: hundreds of sentence frames, filled with names and words that never end.

A frame (niah/training/frames/*.toml) is one sentence with slots and questions about it:

    [[frame]]
    text = "{person} keeps {count} {animal.plural} in a {building} near {place}."
    questions = ["How many {animal.plural} does {person} keep near {place}?"]

`{kind}` is drawn once a needle, `{kind2}`, `{kind3}` are further and different draws of the same kind; `.plural`, `.cap`, and for
a person `.first` and `.last`, are forms of it. "a" in front of a slot becomes "an" where the value asks for it. The kinds are
the lists and patterns of niah/training/slots.toml, and `nonsense`. All draws use `random()` alone: the same rng gives the same
needles on every machine and Python.
"""

from __future__ import annotations

import random
import re
import tomllib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from niah.errors import UsageError, did_you_mean
from niah.task.english import PHRASE_FORMS
from niah.training.slots import Slot, Uniform, Value, slot_kinds, value_forms

_SLOT = re.compile(r"\{([a-z]+)(\d?)((?:\.[a-z]+)*)\}")
_ARTICLE = re.compile(r"(?:^|(?<=[\s(\"'–—-]))(an?|An?) $")
_BLIND_ONE_IN = 12

Form = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class TrainingNeedle:
    """A sentence and questions that it answers; `values` fill the slots of its frame."""

    text: str
    questions: tuple[str, ...]
    frame_id: str
    values: tuple[Value, ...]


class FrameNeedles:
    """An endless stream of training needles; `blind` gives those of the frames that training never sees."""

    def __init__(self, *, blind: bool = False):
        self.frames = tuple(frame for frame in load_frames() if frame.blind == blind)
        self._by_id = {frame.id: frame for frame in self.frames}

    def draw(self, rng: random.Random) -> TrainingNeedle:
        """One needle; equal states of `rng` give equal needles."""
        frame = self.frames[int(rng.random() * len(self.frames))]
        return frame.needle(frame.draw(rng.random))

    def near_miss(self, rng: random.Random, needle: TrainingNeedle) -> TrainingNeedle:
        """A sentence of the same frame that shares values with `needle`, which it resembles, and answers none of its questions."""
        frame = self._by_id[needle.frame_id]
        return frame.needle(frame.redraw(rng.random, needle.values))


@cache
def load_frames(folder: Path = Path(__file__).parent / "frames") -> tuple[Frame, ...]:
    """All frames of the TOML files of a folder, by file and place in it; UsageError names what is wrong with one."""
    frames: list[Frame] = []
    for path in sorted(folder.glob("*.toml")):
        try:
            rows = tomllib.loads(path.read_text(encoding="utf-8"))["frame"]
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError) as error:
            raise UsageError(f"{path}: no file of frames: {error}") from None
        frames += [_frame(f"{path.stem}-{number:03}", row) for number, row in enumerate(rows, 1)]
    return tuple(frames)


class Line:
    """A sentence with slots, cut into pieces once: text, or (slot, which of its forms, what is done to it)."""

    def __init__(self, raw: str, names: list[str], where: str):
        self.raw = raw
        self._pieces: list[str | tuple[int, int, Form | None]] = []
        end = 0
        for match in _SLOT.finditer(raw):
            literal, end = raw[end : match.start()], match.end()
            article = _ARTICLE.search(literal)
            kind, number, forms = match[1], match[2], match[3].split(".")[1:]
            if kind not in slot_kinds():
                raise UsageError(f"{where}: unknown slot {kind!r}; {did_you_mean(kind, slot_kinds())}")
            if match.start() == 0 and "cap" not in forms:
                forms.append("cap")
            if article:
                literal = literal[: article.start()]
                forms += ["a", "cap"] if article[1][0] == "A" else ["a"]
            if literal:
                self._pieces.append(literal)
            if kind + number not in names:
                names.append(kind + number)
            which = _which(kind, forms, where)
            self._pieces.append((names.index(kind + number), which, _chain(forms)))
        if raw[end:]:
            self._pieces.append(raw[end:])
        self.literals = [piece for piece in self._pieces if isinstance(piece, str)]
        self.slots = frozenset(piece[0] for piece in self._pieces if not isinstance(piece, str))
        if any(brace in literal for literal in self.literals for brace in "{}"):
            raise UsageError(f"{where}: a brace that is no slot in {raw!r}")

    def render(self, values: Sequence[Value]) -> str:
        out: list[str] = []
        for piece in self._pieces:
            if isinstance(piece, str):
                out.append(piece)
            else:
                slot, which, form = piece
                value = values[slot][which]
                out.append(form(value) if form else value)
        return "".join(out)


@dataclass(frozen=True, slots=True)
class Frame:
    """A needle's shape; `makers` draw the values of its slots, `rivals` are the earlier slots of the same kind."""

    id: str
    text: Line
    questions: tuple[Line, ...]
    makers: tuple[Slot, ...]
    rivals: tuple[tuple[int, ...], ...]

    @property
    def blind(self) -> bool:
        return zlib.crc32(self.text.raw.encode()) % _BLIND_ONE_IN == 0

    def needle(self, values: tuple[Value, ...]) -> TrainingNeedle:
        questions = tuple([question.render(values) for question in self.questions])
        return TrainingNeedle(self.text.render(values), questions, self.id, values)

    def draw(self, uniform: Uniform) -> tuple[Value, ...]:
        """Values for all slots; two slots of one kind never get the same."""
        values: list[Value] = []
        for make, rivals in zip(self.makers, self.rivals, strict=True):
            value = make(uniform)
            while rivals and any(value == values[rival] for rival in rivals):
                value = make(uniform)
            values.append(value)
        return tuple(values)

    def redraw(self, uniform: Uniform, values: tuple[Value, ...]) -> tuple[Value, ...]:
        """Other values for 30-60 % of the slots, at least for one of those that each question mentions.

        So the sentence looks like the needle and answers none of its questions; what the questions ask may change or stay.
        """
        wanted = len(values) * (0.3 + 0.3 * uniform())
        changed: set[int] = set()
        for question in self.questions:
            if question.slots and changed.isdisjoint(question.slots):
                slots = sorted(question.slots)
                changed.add(slots[int(uniform() * len(slots))])
        while len(changed) < min(wanted, len(values)):
            changed.add(int(uniform() * len(values)))
        new = list(values)
        for slot in sorted(changed):
            while not set(new[slot]).isdisjoint(values[slot]) or any(new[slot] == new[rival] for rival in self.rivals[slot]):
                new[slot] = self.makers[slot](uniform)
        return tuple(new)


def _frame(id_: str, row: Any) -> Frame:
    if not isinstance(row, dict) or set(row) != {"text", "questions"} or not row["questions"]:
        raise UsageError(f"frame {id_}: a frame has exactly a text and questions")
    names: list[str] = []
    text = Line(row["text"], names, f"frame {id_}")
    known = list(names)
    questions = tuple(Line(question, names, f"frame {id_}") for question in row["questions"])
    if names != known:
        raise UsageError(f"frame {id_}: a question uses {{{names[len(known)]}}}, which the text does not hold")
    kinds = [name.rstrip("0123456789") for name in names]
    return Frame(
        id=id_,
        text=text,
        questions=questions,
        makers=tuple(slot_kinds()[kind] for kind in kinds),
        rivals=tuple(tuple(other for other in range(slot) if kinds[other] == kind) for slot, kind in enumerate(kinds)),
    )


def _which(kind: str, forms: list[str], where: str) -> int:
    """Takes the form that is a value of its own (plural, first, last) out of `forms`: its place in the Value."""
    places = value_forms(kind)
    for form in forms:
        if form in places:
            forms.remove(form)
            return places[form]
        if form not in PHRASE_FORMS:
            raise UsageError(f"{where}: {{{kind}}} has no form {form!r}")
    return 0


def _chain(forms: list[str]) -> Form | None:
    functions = [PHRASE_FORMS[form] for form in forms]
    if len(functions) < 2:
        return functions[0] if functions else None

    def all_forms(text: str) -> str:
        for function in functions:
            text = function(text)
        return text

    return all_forms
