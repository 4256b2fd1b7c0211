"""The words of niah: read this first.

A **needle** is a fact in a sentence. It is hidden in a **haystack** (text of a corpus). A **trial** says which needle goes into which
haystack at which length and depth; the **prompt** is what a model reads, the **reply** what it answers, the **score** how
much of the needle the answer holds, and the **record** all of it as one line of `trials.jsonl`.

Depth is a fraction: 0 = before all text, 1 = after all text. Length is the whole prompt in tokens of a named tokenizer, or of the
tested model itself.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from typing import Any, Literal, TypeAlias

FORMAT = 1
"""Version of a line of trials.jsonl."""

Cue: TypeAlias = Literal["off", "user", "prefill"]
Stop: TypeAlias = Literal["end", "length", "filter", "refusal", "unknown"]
Fact: TypeAlias = tuple[str, ...]
"""A key fact: its accepted variants."""


def canonical(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces. Fingerprints are hashes of it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(value: object) -> str:
    """16 hexadecimal digits of the sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Needle:
    """A fact to be hidden and found. A full answer holds every key fact in `answers`, each in one of its variants."""

    id: str
    text: str
    question: str
    answers: tuple[Fact, ...]
    distractors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprints:
    """What stands behind the names in a trial: everything outside of it that can change a byte of the prompt."""

    corpus: str
    needles: str
    tokenizer: str
    template: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the answer is drawn; None leaves the choice to the server."""

    max_output_tokens: int = 2048
    temperature: float | None = None
    top_p: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One question to ask: no text and no model. `needles` and `depths` go together; `haystack` is shared or independent.

    `fitted_length` stands where `length` is in the tested model's own tokens: the most tokens of ours that the prompt may have.
    """

    corpus: str
    needles: tuple[str, ...]
    length: int
    depths: tuple[float, ...]
    reshuffle: int
    seed: int
    template: str
    cue: Cue
    sampling: Sampling
    tokenizer: str
    haystack: str
    distractors: int
    fingerprints: Fingerprints
    fitted_length: int | None = None
    _key: str = field(init=False, default="", repr=False, compare=False)

    @property
    def key(self) -> str:
        """32 hexadecimal digits of the sha256 of the canonical JSON of all fields that are set."""
        if not self._key:
            object.__setattr__(self, "_key", hashlib.sha256(self._canonical().encode()).hexdigest()[:32])
        return self._key

    def _canonical(self) -> str:
        """`canonical(self.to_json())`, in a fifth of the time: a report makes it for every record."""
        first, second, third, last = _around(*_shared(self))
        return f"{first}[{','.join(map(repr, self.depths))}]{second}{_encoded(self.needles)}{third}{self.reshuffle!r}{last}"

    def to_json(self) -> dict[str, Any]:
        fields = _fields(self)
        del fields["_key"]
        if self.fitted_length is None:  # without it a trial has the key that it always had
            del fields["fitted_length"]
        return {**fields, "sampling": _fields(self.sampling), "fingerprints": _fields(self.fingerprints)}

    @property
    def most_tokens(self) -> int:
        """The most tokens that the prompt may have, by the tokenizer that it is made with."""
        return self.length if self.fitted_length is None else self.fitted_length

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Trial":
        fields = dict(data)
        fields["needles"] = tuple(fields["needles"])
        fields["depths"] = tuple(fields["depths"])
        fields["sampling"] = _sampling(**fields["sampling"])
        fields["fingerprints"] = _fingerprints(**fields["fingerprints"])
        return cls(**fields)


# The trials of a run share these; a report reads 100,000 of them. typed: 0 and 0.0 are other bytes.
_sampling = lru_cache(maxsize=256, typed=True)(Sampling)
_fingerprints = lru_cache(maxsize=256, typed=True)(Fingerprints)

_SHARED = (
    *("corpus", "cue", "distractors", "haystack", "length", "fitted_length", "seed", "template", "tokenizer"),
    *(f"fingerprints.{name}" for name in Fingerprints.__slots__),
    *(f"sampling.{name}" for name in Sampling.__slots__),
)
"""What many trials of a run have in common."""
_shared = attrgetter(*_SHARED)
_HOLE: dict[str, int] = {"": 0}
"""No JSON of a text holds these characters."""


@lru_cache(maxsize=4096, typed=True)  # typed: 0 and 0.0 are other bytes
def _around(*values: object) -> tuple[str, ...]:
    """A trial's canonical JSON around its depths, its needles and its reshuffle."""
    fields: dict[str, Any] = {"depths": _HOLE, "needles": _HOLE, "reshuffle": _HOLE}
    for name, value in zip(_SHARED, values, strict=True):
        outer, _, inner = name.rpartition(".")
        (fields.setdefault(outer, {}) if outer else fields)[inner] = value
    if fields["fitted_length"] is None:
        del fields["fitted_length"]
    return tuple(canonical(fields).split(canonical(_HOLE)))


@lru_cache(maxsize=4096)
def _encoded(names: tuple[str, ...]) -> str:
    return canonical(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a needle stands: depth asked and reached, and the tokens of the context in front of it."""

    needle: str
    asked: float
    actual: float
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a model reads, in parts, so that retrieval can replace the context and a provider can prefill the cue.

    `layout` says how context and question make up the user's message; `tokens` is the sum over the contents of `messages()`.
    """

    system: str
    context: str
    question: str
    cue: str
    cue_mode: Cue
    layout: str
    tokens: int
    placements: tuple[Placement, ...]
    sampling: Sampling
    shared_characters: int = 0
    """So many characters of the context stand in front of the first needle: other trials of the reshuffle share them."""

    def messages(self) -> list[dict[str, str]]:
        """The prompt as chat messages; a prefilled cue is the beginning of the assistant's turn."""
        before, after = around_context(self.layout, self.question, self.cue if self.cue_mode == "user" else "")
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages.append({"role": "user", "content": f"{before}{self.context}{after}"})
        if self.cue_mode == "prefill":
            messages.append({"role": "assistant", "content": self.cue})
        return messages


def around_context(layout: str, question: str, closing: str) -> tuple[str, str]:
    """The user's message in front of the context and behind it; `closing` (the cue, if any) becomes its last paragraph."""
    before, _, after = layout.partition("{context}")
    after = after.replace("{question}", question) + (f"\n\n{closing}" if closing else "")
    return before.replace("{question}", question), after


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens as the provider counts them; None where it does not say.

    `input` includes `cached` and `cache_write`, `output` includes `reasoning`.
    """

    input: int | None = None
    cached: int | None = None
    output: int | None = None
    reasoning: int | None = None
    cache_write: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a model answered; `seconds` is the time of the successful request, `model` the name as served.

    `measured` is what a local engine tells beyond that, by names that bear their units.
    """

    text: str
    stop: Stop = "end"
    usage: Usage = Usage()
    seconds: float = 0.0
    model: str = ""
    measured: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How good a reply is, in [0, 1]; `found` says for each key fact whether it was found; `why` explains to a person."""

    scorer: str
    value: float
    found: tuple[bool, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no reply."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line of trials.jsonl. Exactly one of reply and error is set; a failed call has no score: it is missing data."""

    model: str
    trial: Trial
    tokens: int
    placements: tuple[Placement, ...]
    reply: Reply | None
    scores: tuple[Score, ...]
    error: Failure | None
    at: str
    format: int = FORMAT

    def __post_init__(self) -> None:
        if (self.reply is None) == (self.error is None):
            raise ValueError("a record has exactly one of reply and error")

    def to_json(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "model": self.model,
            "key": self.trial.key,
            "trial": self.trial.to_json(),
            "tokens": self.tokens,
            "placements": [_fields(placement) for placement in self.placements],
            "reply": _reply_json(self.reply) if self.reply else None,
            "scores": [_fields(score) for score in self.scores],
            "error": _fields(self.error) if self.error else None,
            "at": self.at,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Record":
        reply = data["reply"]
        return cls(
            format=data["format"],
            model=data["model"],
            trial=Trial.from_json(data["trial"]),
            tokens=data["tokens"],
            placements=tuple(Placement(**placement) for placement in data["placements"]),
            reply=_reply(reply) if reply else None,
            scores=tuple(_score(score) for score in data["scores"]),
            error=Failure(**data["error"]) if data["error"] else None,
            at=data["at"],
        )


def _fields(value: Any) -> dict[str, Any]:
    """The fields of one of the types above, not their insides: dataclasses.asdict copies all, which is most of what a record would cost."""
    return {name: getattr(value, name) for name in value.__slots__}


def _reply_json(reply: Reply) -> dict[str, Any]:
    usage = _fields(reply.usage)
    if reply.usage.cache_write is None:
        del usage["cache_write"]
    fields = {**_fields(reply), "usage": usage}
    if reply.measured is None:
        del fields["measured"]
    return fields


def _reply(data: Mapping[str, Any]) -> Reply:
    fields = dict(data)
    return Reply(usage=Usage(**fields.pop("usage")), **fields)


def _score(data: Mapping[str, Any]) -> Score:
    fields = dict(data)
    return Score(found=tuple(fields.pop("found")), **fields)


Outcome: TypeAlias = Literal["hit", "partial", "miss", "cut", "refused", "truncated", "overflow", "error"]
SCORED: tuple[Outcome, ...] = ("hit", "partial", "miss")
"""The outcomes that enter a recall. The others are missing data and counted apart."""


def outcome(record: Record) -> Outcome:
    """What a record counts as.

    An answer cut at the output cap is a hit if every key fact is already there, and otherwise unknown (`cut`); so is an empty
    one of which the server does not say why it ended. A reply
    that is no refusal and has no scores was withheld from scoring: the server reported a prompt well below the one sent.
    """
    if record.error is not None:
        return "overflow" if record.error.kind in ("context_overflow", "out_of_memory") else "error"
    assert record.reply is not None, "a record has a reply or an error"
    if record.reply.stop in ("filter", "refusal"):
        return "refused"
    if not record.scores:
        return "truncated"
    value = record.scores[0].value
    if value >= 1:
        return "hit"
    if record.reply.stop == "length" or (record.reply.stop == "unknown" and not record.reply.text.strip()):
        return "cut"
    return "partial" if value > 0 else "miss"
