"""Makes synthetic records for the tests of the reports: no model, no text, any outcome."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from niah.report.stats import Where, where
from niah.trial import Cue, Failure, Fingerprints, Placement, Record, Reply, Sampling, Score, Stop, Trial

FINGERPRINTS = Fingerprints(corpus="c" * 16, needles="n" * 16, tokenizer="t" * 16, template="p" * 16)
SAMPLING = Sampling()


def trial(
    length: int = 4000,
    depth: float | tuple[float, ...] = 0.5,
    *,
    reshuffle: int = 0,
    corpus: str = "builtin/wikipedia",
    needles: Sequence[str] | None = None,
    cue: Cue = "off",
    tokenizer: str = "niah-8k",
    haystack: str = "shared",
    distractors: int = 0,
) -> Trial:
    depths = depth if isinstance(depth, tuple) else (depth,)
    return Trial(
        corpus=corpus,
        needles=tuple(needles) if needles else tuple(f"needle-{(reshuffle + i) % 30}" for i in range(len(depths))),
        length=length,
        depths=depths,
        reshuffle=reshuffle,
        seed=1,
        template="default",
        cue=cue,
        sampling=SAMPLING,
        tokenizer=tokenizer,
        haystack=haystack,
        distractors=distractors,
        fingerprints=FINGERPRINTS,
    )


def record(
    value: float | None = 1.0,
    *,
    model: str = "server/test",
    of: Trial | None = None,
    stop: Stop = "end",
    error: str | None = None,
    scores: Sequence[Score] | None = None,
    at: str = "2026-11-22T10:00:00Z",
) -> Record:
    """A record with one score of `value`; value None = a reply without scores; `error` = a failed call of that kind."""
    asked = of or trial()
    if scores is None:
        scores = () if error or value is None else (Score(scorer="contains", value=value, found=(value >= 1,), why="test"),)
    return Record(
        model=model,
        trial=asked,
        tokens=asked.length - 3,
        placements=tuple(
            Placement(needle=needle, asked=depth, actual=depth, token=int(depth * asked.length))
            for needle, depth in zip(asked.needles, asked.depths, strict=True)
        ),
        reply=None if error else Reply(text="an answer", stop=stop, seconds=0.1, model=model),
        scores=tuple(scores),
        error=Failure(kind=error, message="it failed") if error else None,
        at=at,
    )


def grid(
    lengths: Iterable[int],
    depths: Iterable[float],
    hits: Callable[[int, float], int],
    *,
    reshuffles: int = 20,
    model: str = "server/test",
    cue: Cue = "off",
    corpora: Sequence[str] = ("builtin/wikipedia",),
    tokenizer: str = "niah-8k",
) -> Iterator[Record]:
    """`reshuffles` records a cell, of which the first `hits(length, depth)` found the needle."""
    depths = list(depths)
    for length in lengths:
        for depth in depths:
            found = hits(length, depth)
            for i in range(reshuffles):
                asked = trial(length, depth, reshuffle=i, cue=cue, corpus=corpora[i % len(corpora)], tokenizer=tokenizer)
                yield record(1.0 if i < found else 0.0, model=model, of=asked)


def plan_counts(trials: Iterable[tuple[str, Trial]]) -> Counter[Where]:
    """How many trials a plan, given as (model, trial), has for each cell: the `planned` of `aggregate`."""
    return Counter(where(model, asked) for model, asked in trials)
