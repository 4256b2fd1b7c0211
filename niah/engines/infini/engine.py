"""Models with Infini-attention: a prompt of any length streams through a memory of constant size.

Of the text that is only to be remembered, the last layer's output is never made. States at segment borders are kept: what the next prompt
begins with alike is read from the last of them on. With the option `memory-off` the memory is emptied before the answer, a control: what
is still found was in sight.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from niah.engines import BORDER, EngineError, Generation, Sampling, Step
from niah.engines.inference import chooser, within_memory
from niah.engines.infini.checkpoint import load_checkpoint, load_config
from niah.engines.infini.model import InfiniModel, States
from niah.engines.infini.snapshots import Snapshots

CHUNK_TOKENS = {"cpu": 512, "cuda": 8192}
"""Read at a time, in whole segments; on a CPU what is in work should fit into its caches."""
SNAPSHOT_BYTES = 96_000_000
OPTIONS = ("memory-off",)


class InfiniEngine:
    """The checkpoint in a folder. `snapshot_bytes` bounds the states that are kept."""

    window_tokens = None

    def __init__(
        self,
        folder: Path,
        *,
        device: str | None = None,
        chunk_tokens: int | None = None,
        snapshot_bytes: int = SNAPSHOT_BYTES,
        memory_off: bool = False,
    ):
        self._folder, self._memory_off = folder, memory_off
        self._config = load_config(folder)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.stop_ids = frozenset(self._config.end_tokens)
        self.border_after_context = self._config.border_at_question
        self._segment_tokens = self._config.segment_tokens
        chunk = chunk_tokens or CHUNK_TOKENS.get(self.device.partition(":")[0], 512)
        self._chunk_tokens = max(1, chunk // self._segment_tokens) * self._segment_tokens
        self._model: InfiniModel | None = None
        self._snapshots = Snapshots(snapshot_bytes)
        self._read = array("i")
        """The last prompt, as far as snapshots go back to it."""

    def generate(
        self,
        prompt: Iterable[Sequence[int]],
        max_new_tokens: int,
        *,
        stop_ids: Collection[int],
        sampling: Sampling,
        report: Callable[[Step], None],
    ) -> Generation:
        """See `Engine`."""
        ids, border = _gathered(prompt)
        if not ids:
            raise EngineError("the prompt is empty", kind="prompt")
        if max(ids) >= self._config.vocabulary:
            told = f"it made the id {max(ids):,}, the weights know {self._config.vocabulary:,}"
            raise EngineError(f"its tokenizer does not fit: {told}", kind="checkpoint")
        started = time.perf_counter()
        made: list[int] = []
        stop: Literal["end", "length"] = "length"
        try:
            with torch.inference_mode(), within_memory(self.device):
                self._model = self._model or load_checkpoint(self._folder, self.device)
                hidden, states, reused = self._prefill(self._model, ids, border if self.border_after_context else 0, report)
                prefilled = time.perf_counter()
                state_bytes = sum(state.state_bytes() for state in states or ())
                for token in _answer(self._model, hidden, states, chooser(sampling, self.device)):
                    if token in stop_ids:
                        stop = "end"
                        break
                    made.append(token)
                    report(Step(phase="decode", tokens=len(made), total=max_new_tokens, seconds=time.perf_counter() - prefilled))
                    if len(made) == max_new_tokens:
                        break
        except EngineError:
            self._forget()
            raise
        return Generation(
            ids=tuple(made),
            stop=stop,
            prompt_tokens=len(ids),
            reused_tokens=reused,
            prefill_seconds=prefilled - started,
            decode_seconds=time.perf_counter() - prefilled,
            measured={"state_bytes": state_bytes},
        )

    def close(self) -> None:
        """See `Engine`."""
        self._model = None
        self._forget()

    def _forget(self) -> None:
        self._snapshots.clear()
        self._read = array("i")
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _prefill(
        self, model: InfiniModel, ids: array[int], border: int, report: Callable[[Step], None]
    ) -> tuple[Tensor, States | None, int]:
        """Read a prompt: the last token's hidden state [d_model], the states behind it, and how many tokens were not read again."""
        started = time.perf_counter()
        # Without a border, what follows the last whole segment is in sight of the answer.
        remembered = border or (len(ids) - 1) // self._segment_tokens * self._segment_tokens
        reused, states = self._snapshots.back_to(min(_alike(ids, self._read), remembered))
        self._read = ids
        hidden = torch.empty(0)
        for start, stop in self._chunks(reused, remembered, len(ids)):
            tokens = torch.tensor([ids[start:stop].tolist()], device=self.device)
            if start == remembered and states:
                states = model.close_segment(states) if border else states
                states = tuple(state.without_memory() for state in states) if self._memory_off else states
            if start >= remembered:
                hidden, states = model(tokens, states)
            else:
                states = model.absorb(tokens, states)
                if stop % self._segment_tokens == 0:
                    self._snapshots.keep(stop, states)
            seconds = time.perf_counter() - started
            report(Step(phase="prefill", tokens=stop - reused, total=len(ids) - reused, seconds=seconds))
        return hidden[0, -1], states, reused

    def _chunks(self, start: int, remembered: int, end: int) -> Iterator[tuple[int, int]]:
        """What is read at a time: none reaches over the border."""
        for first, last in ((start, remembered), (remembered, end)):
            for begin in range(first, last, self._chunk_tokens):
                yield begin, min(begin + self._chunk_tokens, last)


def _answer(model: InfiniModel, hidden: Tensor, states: States | None, choose: Callable[[Tensor], int]) -> Iterator[int]:
    """Token after token, without end."""
    while True:
        token = choose(model.logits(hidden))
        yield token
        hidden, states = model(torch.tensor([[token]], device=hidden.device), states)
        hidden = hidden[0, -1]


def _gathered(prompt: Iterable[Sequence[int]]) -> tuple[array[int], int]:
    """A prompt's ids, four bytes each, and how many of them stand in front of the border; 0 where there is none or nothing behind it."""
    ids, border = array("i"), 0
    for piece in prompt:
        if piece is BORDER:
            border = len(ids)
        ids.extend(piece)
    return ids, border if border < len(ids) else 0


def _alike(one: array[int], other: array[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def open_engine(folder: Path, option: str = "") -> InfiniEngine:
    """The engine of a checkpoint's folder, with one of `OPTIONS`; EngineError (checkpoint) when it holds none that fits."""
    return InfiniEngine(folder, memory_off=option == "memory-off")
