"""Prompts that a server cut without saying so: noticed by the input tokens that it reports. Such an answer is withheld from scoring.

Servers count in tokens of their own, so reported and planned counts are compared with what the same server reported before.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from niah.trial import Record, Reply, Trial

_AT_THE_WINDOW = 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reference:
    """The answer with the highest ratio of reported to planned tokens, and the characters that one of its tokens had, if known."""

    ratio: float
    characters_a_token: float | None


@dataclass(slots=True)
class Truncation:
    """Judges the answers of one model as they come, corpus by corpus.

    A prompt was cut if its ratio of reported to planned tokens is well below the highest seen so far, and a reported token would
    stand for more characters than there (a table of numbers has a low ratio too, but few characters a token). Of the count from which
    others are judged, `added_tokens` may be the server's own words, which weigh more in a short prompt. No text has over
    `most_characters` a token.
    """

    most_characters: float = 8.0
    least_share: float = 0.8
    added_tokens: int = 64
    _highest: dict[str, _Reference] = field(default_factory=dict)

    def learn(self, corpus: str, tokens: int, reply: Reply, characters: int | None = None) -> None:
        """Take an answer, of this session or an earlier one, as an example."""
        reported = reply.usage.input
        if not reported:
            return
        ratio = (reported - self.added_tokens) / tokens
        if corpus not in self._highest or ratio > self._highest[corpus].ratio:
            self._highest[corpus] = _Reference(ratio=ratio, characters_a_token=characters / reported if characters else None)

    def happened(self, trial: Trial, tokens: int, characters: int, reply: Reply) -> bool:
        """Whether the prompt of this reply, of so many planned tokens and characters, was cut."""
        reported = reply.usage.input
        if not reported:
            return False
        self.learn(trial.corpus, tokens, reply, characters)
        best = self._highest[trial.corpus]
        denser = best.characters_a_token is None or characters / reported > 1.1 * best.characters_a_token
        return (reported / tokens < self.least_share * best.ratio and denser) or characters > self.most_characters * reported


def cut_at_the_window(records: Iterable[Record]) -> set[tuple[str, str]]:
    """(model, key) of answers that were scored before it showed that the server cuts prompts of their size.

    A server with a window of W tokens reports about W for every prompt that it cuts. Once an answer is known as cut and stands at the
    most that the model ever reported, all answers there count as cut: one of them may have been the first, with nothing to compare with.
    """
    reported: dict[str, list[tuple[int, str, bool]]] = {}
    for record in records:
        reply = record.reply
        if reply is not None and reply.usage.input and reply.stop not in ("filter", "refusal"):
            reported.setdefault(record.model, []).append((reply.usage.input, record.trial.key, bool(record.scores)))
    found: set[tuple[str, str]] = set()
    for model, answers in reported.items():
        edge = _AT_THE_WINDOW * max(tokens for tokens, _, _ in answers)
        there = [(key, scored) for tokens, key, scored in answers if tokens >= edge]
        if not all(scored for _, scored in there):
            found |= {(model, key) for key, scored in there if scored}
    return found
