"""Training episodes: a text with needles in it, then questions, each answered by the needle's own sentence.

An episode is one conversation, so that one text serves several questions (dense supervision):

    <|bos|> [<|system|> ... <|end|>] <|user|> text, question [, cue] <|end|> <|assistant|> [cue] needle <|end|> <|user|> question ...

The tokens of an answer carry weight in the loss, nothing else does.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from niah.task.prompt import CUE
from niah.task.tokens import niah_8k_encoding
from niah.training.frames import FrameNeedles
from niah.training.noise import Noise, Piece

BOS, EOS, PAD, SYSTEM, USER, ASSISTANT, END = range(8184, 8191)
FIRST_TOKENS, FIRST_WEIGHT = 7, 3.0
"""The first tokens of an answer decide which sentence is copied: they weigh more."""

_SYSTEMS = (
    "Use the text below to answer.", "You read long texts closely.", "Reply with the one sentence that answers the question.",
    "Quote the sentence that holds the answer.", "You are a careful reader.", "The user gives you a document and asks about it.",
    "Be exact. Rely on the given text alone.", "Find what is asked for in the text.", "You help people to search their papers.",
    "Questions follow a text; the text holds what they ask for.", "Copy the sentence that matters.", "You are a librarian with sharp eyes.",
    # Words of questions in front of a text whose first sentence may be the needle: they are no question.
    "You reply to questions on papers. Say in a few full words what the papers tell, and nothing that only you know.",
    "When you are asked who, what, where or why, look it up. Which words the text uses matters: tell it in those.",
    "How do you work? You read everything first, and then say exactly what was written. What is not there you leave out.",
    "What the user wants to know stands in the files. Tell what they say, in full and in short, and from no other source.",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """`ids`, `weights` (loss weight of predicting this token) and `needle` (-1 filler, else the needle's number) are [tokens]."""

    ids: NDArray[np.int64]
    weights: NDArray[np.float32]
    needle: NDArray[np.int64]
    context: tuple[int, int]
    turns: tuple[tuple[int, int, int], ...]
    """Of each question: where it begins, where its answer begins, where that ends. Turn i asks for needle i."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What an episode may look like. Shares are fractions 0-1."""

    tokens: int
    needles: tuple[int, int]
    near_misses: float = 0.5
    question_first: float = 0.0
    """The one question stands in front of the text, and again behind it."""
    cue_off: float = 0.15
    real_sentences: float = 0.35
    random_sentences: float = 0.12
    passkeys: float = 0.0
    repeated: float = 0.0
    noise: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user asks, what the answer begins with though nobody has to learn it (the cue), and the answer."""

    asked: str
    begun: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """The conversation around a text: `opening` stands in front of it, the first turn's question right behind it."""

    system: str | None
    opening: str
    turns: Sequence[Turn]


class Script(Protocol):
    """Writes conversations in the tokens of one tokenizer and chat template."""

    def count(self, text: str) -> int: ...

    def room(self, talk: Talk, tokens: int) -> int:
        """How many of `tokens` the talk leaves for the text."""
        ...

    def episode(self, talk: Talk, pieces: Sequence[Piece], tokens: int) -> Episode:
        """At most `tokens` tokens; an answer that does not fit is none of the episode's turns."""
        ...


class Maker:
    """Makes episodes from frames' needles, real sentences and random words, in noise; as the bundled readers read them without `script`."""

    def __init__(self, frames: FrameNeedles, noise: Noise, script: Script | None = None):
        self._frames, self._noise, self._script = frames, noise, script or Niah8k()

    def episode(self, rng: random.Random, shape: Shape) -> Episode:
        """One episode of at most `shape.tokens` tokens, with an answer at least."""
        while not (made := self._episode(rng, shape)).turns:
            continue  # a long needle in a short text
        return made

    def _episode(self, rng: random.Random, shape: Shape) -> Episode:
        wanted = rng.randint(*shape.needles)
        needles: list[tuple[str, str]] = []
        extras: list[str] = []
        for _ in range(wanted):
            text, question, misses = self._needle(rng, shape)
            needles.append((text, question))
            extras += misses
        first = rng.random() < shape.question_first
        if first:
            needles, extras = needles[:1], extras + [text for text, _ in needles[1:]]
        talk = _talk(rng, shape, needles, question_first=first)
        room = self._script.room(talk, shape.tokens)
        return self._script.episode(talk, self._context(rng, shape, [text for text, _ in needles], extras, room), shape.tokens)

    def _needle(self, rng: random.Random, shape: Shape) -> tuple[str, str, list[str]]:
        if rng.random() < shape.passkeys:
            return *_passkey(rng), []
        kind = rng.random()
        misses = rng.choices((0, 1, 2, 4), (4, 3, 2, 2))[0] if rng.random() < shape.near_misses else 0
        if kind < shape.real_sentences:
            text = self._real(rng)
            return text, masked_question(rng, text), [self._disturbed(rng, text) for _ in range(min(misses, 1))]
        if kind < shape.real_sentences + shape.random_sentences:
            text = " ".join(self._noise.words(rng, rng.randint(6, 30))).capitalize().rstrip(".,;:") + "."
            return text, masked_question(rng, text), []
        needle = self._frames.draw(rng)
        return needle.text, rng.choice(needle.questions), [self._frames.near_miss(rng, needle).text for _ in range(misses)]

    def _real(self, rng: random.Random) -> str:
        for _ in range(20):
            text = " ".join(self._noise.sentence(rng).split())
            if 6 <= len(text.split()) <= 60 and text[0].isupper() and text[-1] in ".!":
                return text
        return " ".join(self._noise.words(rng, 12)).capitalize() + "."

    def _disturbed(self, rng: random.Random, text: str) -> str:
        share = rng.uniform(0.3, 0.6)
        return " ".join(self._noise.words(rng, 1)[0] if rng.random() < share else word for word in text.split())

    def _context(self, rng: random.Random, shape: Shape, needles: Sequence[str], extras: Sequence[str], room: int) -> list[Piece]:
        """A text of about `room` tokens, not above it as far as the script can tell, with all needles."""
        count = self._script.count
        inserted = [Piece(" " + text, number) for number, text in enumerate(needles)] + [Piece(" " + text) for text in extras]
        used = sum(count(piece.text) for piece in inserted)
        while len(inserted) > len(needles) and used > room * 0.8:
            used -= count(inserted.pop().text)
        kind = "repeated" if shape.repeated and rng.random() < shape.repeated else shape.noise
        noise = self._noise.draw(rng, max(room - used, 0) + 60, kind)
        sizes = [count(piece.text) for piece in noise]
        kept, total = 0, used
        while kept < len(noise) and total + sizes[kept] <= room:
            total += sizes[kept]
            kept += 1
        places = sorted(((_depth(rng) * kept, piece) for piece in inserted), key=lambda place: place[0], reverse=True)
        pieces = noise[:kept]
        for place, piece in places:
            pieces.insert(round(place), piece)
        return pieces


_KEY_FRAMES = (
    ("The {what} is {n}. Keep it in mind. {n} is the {what}.", "What is the {what}?"),
    ("Note the {what}: {n}. Do not forget that {n} is the {what}.", "Which {what} was noted?"),
    ("Here it is: the {what} you want is {n}.", "Tell me the {what}."),
    ("{n} opens it; that number is the {what}.", "What is the {what} in the text?"),
    ("They set the {what} to {n} and told nobody.", "To what was the {what} set?"),
)
_KEY_WORDS = (
    "locker code", "secret number", "door code", "vault number", "hidden value", "access number", "magic figure", "PIN", "safe combination",
)  # fmt: skip


def _passkey(rng: random.Random) -> tuple[str, str]:
    text, question = rng.choice(_KEY_FRAMES)
    values = {"what": rng.choice(_KEY_WORDS), "n": str(rng.randint(10 ** rng.randint(2, 6), 10**7))[: rng.randint(3, 7)]}
    return text.format(**values), question.format(**values)


def _depth(rng: random.Random) -> float:
    """Any depth, its two ends more often than by chance."""
    kind = rng.random()
    return 0.0 if kind < 0.08 else 1.0 if kind < 0.12 else rng.random()


def _talk(rng: random.Random, shape: Shape, needles: Sequence[tuple[str, str]], *, question_first: bool) -> Talk:
    system = rng.choice(_SYSTEMS) if rng.random() < 0.6 else None
    mode = "off" if rng.random() < shape.cue_off else rng.choice(("user", "prefill"))
    told, begun = "\n\n" + CUE if mode == "user" else "", CUE if mode == "prefill" else ""
    opening = "".join(question + "\n\n" for _, question in needles) if question_first else ""
    turns: list[Turn] = []
    for text, question in needles:
        asked = ("" if turns else "\n\n") + question + told
        turns.append(Turn(asked, begun, text))
    return Talk(system=system, opening=opening, turns=turns)


@cache
def _encoder() -> Callable[[str], list[int]]:
    return niah_8k_encoding().encode_ordinary


class Niah8k:
    """The script of the bundled readers (see the top of this file).

    `border`: what follows the text is encoded apart, as for a reader that closes its segment there.
    """

    def __init__(self, *, border: bool = False):
        self._border = border

    def count(self, text: str) -> int:
        return len(_encoder()(text))

    def room(self, talk: Talk, tokens: int) -> int:
        head, turns = self._around(talk)
        return tokens - len(head) - sum(len(asked) + len(answer) for asked, answer in turns) - 4

    def episode(self, talk: Talk, pieces: Sequence[Piece], tokens: int) -> Episode:
        head, turns = self._around(talk)
        ids, needle = list(head), [-1] * len(head)
        joined = not self._border and talk.turns[0].asked.startswith("\n\n")
        for text, number in _whole_tokens(pieces, "\n\n" if joined else ""):
            new = _encoder()(text)
            ids += new
            needle += [-1 if number is None else number] * len(new)
        if joined:
            turns[0] = (_encoder()(talk.turns[0].asked[2:]) + turns[0][0][len(_encoder()(talk.turns[0].asked)) :], turns[0][1])
        context = len(head), len(ids)
        weights = [0.0] * len(ids)
        spans: list[tuple[int, int, int]] = []
        first = pieces[0].needle
        if first is not None:  # no space in front of it in the text, and none in front of the answer
            turns[first] = turns[first][0], [*_encoder()(talk.turns[first].answer), END]
        for asked, answer in turns:
            spans.append((len(ids), len(ids) + len(asked), len(ids) + len(asked) + len(answer)))
            ids += asked + answer
            weights += [0.0] * len(asked) + answer_weights(len(answer))
        needle += [-1] * (len(ids) - len(needle))
        return Episode(
            ids=np.array(ids[:tokens]), weights=np.array(weights[:tokens], dtype=np.float32), needle=np.array(needle[:tokens]),
            context=context, turns=tuple(span for span in spans if span[2] <= tokens),
        )  # fmt: skip

    def _around(self, talk: Talk) -> tuple[list[int], list[tuple[list[int], list[int]]]]:
        """What stands in front of the text, and what behind it: each turn's question and answer."""
        encode = _encoder()
        head = [BOS, *([] if talk.system is None else [SYSTEM, *encode(talk.system), END]), USER, *encode(talk.opening)]
        turns: list[tuple[list[int], list[int]]] = []
        for turn in talk.turns:
            asked = [*([USER] if turns else []), *encode(turn.asked), END, ASSISTANT, *encode(turn.begun)]
            turns.append((asked, [*encode(" " + turn.answer), END]))
        return head, turns


def _whole_tokens(pieces: Sequence[Piece], end: str) -> Iterator[tuple[str, int | None]]:
    """The pieces cut where no token crosses: line breaks join the full stop before them in one token, so they go with it."""
    for number, piece in enumerate(pieces):
        text = piece.text.lstrip("\n") if number else piece.text.lstrip()
        after = pieces[number + 1].text if number + 1 < len(pieces) else end
        breaks = after[: len(after) - len(after.lstrip("\n"))]
        yield text + breaks, piece.needle


def answer_weights(tokens: int) -> list[float]:
    """The loss weights of an answer's tokens."""
    return [FIRST_WEIGHT if i < FIRST_TOKENS else 1.0 for i in range(tokens)]


_SMALL = frozenset(
    word
    for words in (
        "a an the of to in on at by for with from and or but as is are was were be been it its this that these those which who whom whose",
        "he she they his her their had has have not no than then so if when while into over under after before about such may can could",
        "would should will shall must do does did also there here any all each other some one two",
    )
    for word in words.split()
)
_ASKING = (
    "What", "Which", "Who", "Where", "When", "How", "Why", "What exactly", "What kind of thing", "How much", "In what way", "With what",
)  # fmt: skip
_OPENING = ("", "", "", "", "According to the text, ", "Tell me: ", "From the documents, ", "Do the papers say ", "I would like to know ")


def masked_question(rng: random.Random, sentence: str) -> str:
    """A question about a sentence that asks for one stretch of its words: the others stay, some small words dropped."""
    words = sentence.rstrip(".!?").split()
    length = max(1, round(len(words) * rng.uniform(0.1, 0.5)))
    start = rng.randint(0, len(words) - length)
    rest = [(i, word) for i, word in enumerate(words) if not start <= i < start + length]
    dropped = rng.uniform(0.0, 0.6)
    kept = [word.strip(',;:()"') for _, word in rest if word.lower() not in _SMALL or rng.random() > dropped]
    if len(kept) > 4 and rng.random() < 0.5:
        share = rng.uniform(0.5, 1.0)
        kept = [word for word in kept if rng.random() < share] or kept
    if rng.random() < 0.25:
        cut = rng.randint(0, len(kept))
        kept = kept[cut:] + kept[:cut]
    opening = rng.choice(_OPENING)
    asking = rng.choice(_ASKING)
    return opening + (asking.lower() if opening else asking) + " " + " ".join(kept) + "?"
