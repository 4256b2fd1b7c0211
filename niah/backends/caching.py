"""Where the user's message is cut so that trials of one reshuffle can share a provider's prompt cache (Anthropic, Bedrock).

These caches keep the beginning of a message up to a **mark**, and only there. A later request reads an entry that ends at one of
its own marks or at most 20 blocks in front of one (the mark's own block is the first of them); it has to begin with the same
blocks, cut in the same way. At most four marks a request. Writing costs 1.25 times the input price and is paid once,
however many marks there are; reading costs a tenth or less.

All trials of a reshuffle have the same text in front of their needle (`prompt.shared_characters`). So:

- **Borders** depend on the position alone: multiples of 16,384 characters of the context, each moved on to the next blank, so
  that no word is cut and encoded in two halves. Those in front of the needle are used; of two trials the one with the
  shallower needle has the first blocks of the other.
- **Few enough borders for the look-back.** Up to border 32 every multiple is one, then 16 for each doubling of the position: of
  the shared text at most a sixteenth (or 16,384 characters) stays outside, and a context of a million tokens has about 80 blocks.
- **Marks**: behind the last shared block, and at up to three borders in front of it whose numbers are multiples of 18 (of 9, 6, 3,
  2 or 1 where three marks suffice for them). A deep trial so finds what a shallow one wrote at its own end: it is at most 18
  blocks to the next mark, below the 20 also where a mark counts as a block. A shallow trial finds what a deep one wrote at such a
  multiple. Four marks see 55 to 72 borders back: everything up to 1.5 million characters, and beyond that everything from a tenth
  of the own position on.

What follows for the order of trials: shallow to deep (by `shared_characters`, all lengths mixed) reads 79 % of the shared text
with 11 depths of one length and 88 % with those of seven lengths, and writes every piece once; deep to shallow reads 69 and 74 %
and writes the more (56 % at a million tokens). tests/backends/test_caching.py holds that against a model of the cache. An entry can
be read only after the answer to the request that wrote it has begun.

A template with the question in front of the context shares nothing: no marks there, and none where `shared_characters` is 0.
"""

from niah.backends.models import Capabilities
from niah.trial import Prompt, around_context

BORDER_CHARACTERS = 16_384
MARKS = 4
LOOK_BACK = 18
_STEPS = (1, 2, 3, 6, 9, LOOK_BACK)
_EVERY_MULTIPLE = 32
_BLANK_WITHIN = 64
_CHARACTERS_A_TOKEN = 3
_UNKNOWN_MINIMUM_TOKENS = 4096


def pieces(prompt: Prompt, capabilities: Capabilities) -> list[tuple[str, bool]]:
    """The user's message in pieces, each with whether a mark belongs behind it; one piece without a mark where nothing is to be cached.

    The pieces are the message: joined, they are its very characters. No piece is blank, which Anthropic refuses.
    """
    before, after = around_context(prompt.layout, prompt.question, prompt.cue if prompt.cue_mode == "user" else "")
    context = prompt.context
    ends = [] if "{question}" in prompt.layout.partition("{context}")[0] else borders(context, prompt.shared_characters, before)
    if ends and not (context[ends[-1] :] + after).strip():
        ends.pop()
    marked = _marked(ends, len(before), capabilities.cache_min_tokens)
    if not marked:
        return [(before + context + after, False)]
    starts = [0, *ends[:-1]]
    cut = [(context[start:end], number in marked) for number, (start, end) in enumerate(zip(starts, ends, strict=True), start=1)]
    return [(before + cut[0][0], cut[0][1]), *cut[1:], (context[ends[-1] :] + after, False)]


def borders(context: str, shared: int, before: str = "") -> list[int]:
    """The positions at which the context is cut: those that other trials with at least as much shared text have as well."""
    shared = min(shared, len(context))
    found: list[int] = []
    multiple, step = 1, 1
    while (at := multiple * BORDER_CHARACTERS) < shared:
        end = min(at + _BLANK_WITHIN, shared)
        blank = next((position for position in range(at, end) if context[position].isspace()), None)
        if blank is None and end == shared:
            break  # where a longer shared text goes on cannot be known here
        position = at if blank is None else blank
        piece = context[found[-1] : position] if found else before + context[:position]
        if not piece.isspace():
            found.append(position)
        if multiple % (step * _EVERY_MULTIPLE) == 0:
            step *= 2
        multiple += step
    return found


def _marked(ends: list[int], before: int, minimum: int | None) -> set[int]:
    """The numbers, from 1 on, of the borders that get a mark."""
    last = len(ends)
    step = next((step for step in _STEPS if (last - 1) // step < MARKS), LOOK_BACK)
    stable = list(range(step, last, step))[-(MARKS - 1) :]
    least = (_UNKNOWN_MINIMUM_TOKENS if minimum is None else minimum) * _CHARACTERS_A_TOKEN
    return {number for number in (*stable, last) if number and before + ends[number - 1] >= least}
