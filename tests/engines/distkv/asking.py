"""An engine with instances of a few blocks, a prompt to it, and what must hold of it afterwards."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from niah.engines import Generation, Sampling, Step
from niah.engines.distkv.engine import DistKVEngine
from niah.engines.distkv.fleet import Fleet
from tests.engines.distkv.texts import assert_whole

TOKEN_BYTES, BLOCK = 512, 16
GREEDY = Sampling()


def ids(count: int, seed: int = 0) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(6, 1024) for _ in range(count)]


def made(folder: Path, *, instances: int = 1, tokens: int = 1024, chunk_tokens: int = 64) -> DistKVEngine:
    """An engine whose instances hold so many tokens each."""
    engine = DistKVEngine(
        folder, instances=instances, kv_memory_bytes=tokens * TOKEN_BYTES, device="cpu", chunk_tokens=chunk_tokens
    )  # fmt: skip
    engine._block_tokens = BLOCK
    return engine


def ask(
    engine: DistKVEngine,
    prompt: Sequence[int],
    count: int = 12,
    *,
    stop_ids: Sequence[int] = (),
    report: Callable[[Step], None] = lambda _: None,
) -> Generation:
    return engine.generate([prompt], count, stop_ids=stop_ids, sampling=GREEDY, report=report)


def fleet(engine: DistKVEngine) -> Fleet:
    assert engine.fleet
    return engine.fleet


def kept(engine: DistKVEngine) -> int:
    """Blocks that stay taken when nothing is kept for later: none, or something leaks."""
    while fleet(engine).evict():
        pass
    assert_whole(fleet(engine))
    return fleet(engine).total_slots - fleet(engine).free_slots


class Once:
    """Does something when so many tokens have been read or written."""

    def __init__(self, phase: str, tokens: int, do: Callable[[], None]):
        self.phase, self.tokens, self.do, self.done = phase, tokens, do, False

    def __call__(self, step: Step) -> None:
        if not self.done and step.phase == self.phase and step.tokens >= self.tokens:
            self.done = True
            self.do()
