"""Readers that are no language model: the floor that every model must beat."""

import asyncio
import time
from typing import Any

from niah import sentences
from niah.backends import Connection
from niah.errors import UsageError, did_you_mean
from niah.trial import Cue, Prompt, Reply


class Bm25:
    """Returns the sentence of the context that best matches the question by BM25 (Lucene's variant, package bm25s).

    It knows nothing of the cue, and a needle whose question shares few words with it is lost to it.
    """

    cues: frozenset[Cue] = frozenset(("off", "user", "prefill"))
    preferred_cue: Cue = "user"
    concurrency = 1

    async def ask(self, prompt: Prompt) -> Reply:
        started = time.perf_counter()
        text = await asyncio.to_thread(_best_sentence, prompt.context, prompt.question)
        return Reply(text=text, seconds=round(time.perf_counter() - started, 4), model="bm25")

    def ready(self) -> None:
        """Always."""

    async def close(self) -> None:
        """Nothing is held."""


def _best_sentence(context: str, question: str) -> str:
    import bm25s

    candidates = sentences.split(context)
    quiet: dict[str, Any] = {"show_progress": False}
    words: Any = bm25s.tokenize(candidates, stopwords="en", **quiet)
    wanted: Any = bm25s.tokenize(question, stopwords="en", return_ids=False, **quiet)
    if not wanted[0] or not any(words.ids):
        return candidates[0] if candidates else ""  # nothing but stop words: nothing to search by
    index = bm25s.BM25()
    index.index(words, **quiet)
    scores = index.get_scores(wanted[0])
    return candidates[int(scores.argmax())]


def open_baseline(prefix: str, name: str, connection: Connection) -> Bm25:
    """The baseline called `name`; it needs no connection."""
    if name != "bm25":
        raise UsageError(f"model 'baseline/{name}' is unknown; {did_you_mean(f'baseline/{name}', ['baseline/bm25'])}")
    return Bm25()
