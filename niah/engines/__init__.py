"""Local inference: token ids in, token ids out. Imports nothing of niah outside of itself.

`Engine` is the port: an engine has read its checkpoint's config when it is made, reads the weights at the first `generate`, and answers one
prompt at a time, from one thread. What two prompts in a row begin with alike it need not compute twice.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable


class EngineError(Exception):
    """Why there is no answer, in one line.

    `kind`: **window** (the prompt is longer than the model reads), **memory** (it does not fit here, but may elsewhere), **prompt** (empty,
    or of a form that the model does not take), **checkpoint** (its files are missing, damaged, or of another sort).
    """

    def __init__(self, message: str, *, kind: Literal["window", "memory", "prompt", "checkpoint", "settings"]):
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a token is chosen: always the likeliest one at temperature 0, else drawn with `seed` from the likeliest that make up `top_p`."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How far a generation is. `tokens` were computed in `seconds` of this phase, `total` are to be, or, when decoding, may be."""

    phase: Literal["prefill", "decode"]
    tokens: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What was generated: `ids` without the one that ended it. Of the prompt's tokens `reused_tokens` were not computed again.

    `measured` is what else an engine has to tell, by names that bear their units.
    """

    ids: tuple[int, ...]
    stop: Literal["end", "length"]
    prompt_tokens: int
    reused_tokens: int
    prefill_seconds: float
    decode_seconds: float
    measured: Mapping[str, float] = field(default_factory=dict[str, float])


BORDER: Sequence[int] = array("i")
"""This very piece of a prompt holds no token, but says that the text to be asked about ends here."""


class Engine(Protocol):
    """One model in this process. `window_tokens`: most of prompt and answer together, None for no bound; `stop_ids`: what ends an answer,
    as the checkpoint says itself; `device`: where it computes, as in "cpu" or "cuda"; `border_after_context`: whether prompts are to hold
    a `BORDER`, which other engines pass over.
    """

    @property
    def window_tokens(self) -> int | None: ...
    @property
    def stop_ids(self) -> frozenset[int]: ...
    @property
    def device(self) -> str: ...
    @property
    def border_after_context(self) -> bool: ...

    def generate(
        self,
        prompt: Iterable[Sequence[int]],
        max_new_tokens: int,
        *,
        stop_ids: Collection[int],
        sampling: Sampling,
        report: Callable[[Step], None],
    ) -> Generation:
        """Read a prompt, which comes in pieces of any size, and go on until one of `stop_ids`, `max_new_tokens` or the window's end.

        `report` is called between steps of a second or so, and an exception out of it breaks off. Raises EngineError; after any
        exception the next prompt can be asked.
        """
        ...

    def close(self) -> None:
        """Give the memory back; the next `generate` reads the weights again."""
        ...


@runtime_checkable
class Mapped(Protocol):
    """An engine whose memory is divided among instances."""

    def memory_map(self) -> str:
        """Who holds what, for a terminal; "" before the first `generate`."""
        ...
