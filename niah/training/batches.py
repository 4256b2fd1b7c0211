"""Episodes as tensors: batches of one length, positions drawn at random, and how well a batch was answered."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from niah.training.episodes import PAD, Episode


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """`ids`, `positions` and `needle` (number of the needle, -1 filler, -2 no part of the text) are [B, T].

    `at` [A] are flat indices of the hidden states that predict an answer token, `target`, `weight`, `answer` [A] belong to them:
    the token, its weight in the loss, the number of its answer. `row` and `asked` [answers] are an answer's row and needle.
    """

    ids: Tensor
    positions: Tensor
    needle: Tensor
    at: Tensor
    target: Tensor
    weight: Tensor
    answer: Tensor
    row: Tensor
    asked: Tensor

    @property
    def tokens(self) -> int:
        return self.ids.numel()

    def to(self, device: str) -> "Batch":
        return Batch(**{name: getattr(self, name).to(device) for name in self.__slots__})


def collate(episodes: Sequence[Episode], tokens: int, *, positions: Tensor | None = None, pad: int = PAD) -> Batch:
    """Pads `episodes` to `tokens` each."""
    count = len(episodes)
    ids, needle = torch.full((count, tokens), pad), torch.full((count, tokens), -2)
    at: list[Tensor] = []
    target: list[Tensor] = []
    weight: list[Tensor] = []
    answer: list[Tensor] = []
    answers = 0
    about: list[tuple[int, int]] = []
    for row, episode in enumerate(episodes):
        size = len(episode.ids)
        ids[row, :size] = torch.from_numpy(episode.ids)
        first, last = episode.context
        needle[row, first:last] = torch.from_numpy(episode.needle[first:last])
        for number, (_, start, end) in enumerate(episode.turns):
            about.append((row, number))
            at.append(torch.arange(start - 1, end - 1) + row * tokens)
            target.append(torch.from_numpy(episode.ids[start:end]))
            weight.append(torch.from_numpy(episode.weights[start:end]))
            answer.append(torch.full((end - start,), answers))
            answers += 1
    if positions is None:
        positions = torch.arange(tokens)[None].expand(count, tokens)
    rows, asked = torch.tensor(about).T
    return Batch(
        ids=ids, positions=positions, needle=needle, row=rows, asked=asked,
        at=torch.cat(at), target=torch.cat(target), weight=torch.cat(weight), answer=torch.cat(answer),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnBatch:
    """Texts and, apart from them, the questions about them: a streaming reader reads a text once and answers each question behind it.

    `texts` and `needle` hold [1, T] for each text, of its own length. `turns` [N, U] are questions with their answers, `text_of` [N] the
    text that each is about. The rest is as in `Batch`, `at` counts in `turns`.
    """

    texts: tuple[Tensor, ...]
    needle: tuple[Tensor, ...]
    turns: Tensor
    text_of: Tensor
    at: Tensor
    target: Tensor
    weight: Tensor
    answer: Tensor

    @property
    def tokens(self) -> int:
        return sum(text.numel() for text in self.texts) + self.turns.numel()

    def to(self, device: str) -> "TurnBatch":
        moved = {name: getattr(self, name).to(device) for name in ("turns", "text_of", "at", "target", "weight", "answer")}
        return TurnBatch(texts=tuple(t.to(device) for t in self.texts), needle=tuple(t.to(device) for t in self.needle), **moved)


def collate_turns(episodes: Sequence[Episode]) -> TurnBatch:
    """Turns padded to the longest."""
    texts, needle = [], []
    turns: list[Tensor] = []
    text_of: list[int] = []
    spans: list[tuple[int, int]] = []
    weights: list[Tensor] = []
    for row, episode in enumerate(episodes):
        last = episode.context[1]
        told = torch.full((1, last), -2)
        told[:, episode.context[0] :] = torch.from_numpy(episode.needle[episode.context[0] : last])
        texts.append(torch.from_numpy(episode.ids[:last])[None])
        needle.append(told)
        for asked, start, end in episode.turns:
            turns.append(torch.from_numpy(episode.ids[asked:end]))
            spans.append((start - asked, end - asked))
            weights.append(torch.from_numpy(episode.weights[start:end]))
            text_of.append(row)
    size = max(len(turn) for turn in turns)
    padded = torch.full((len(turns), size), PAD)
    for row, turn in enumerate(turns):
        padded[row, : len(turn)] = turn
    return TurnBatch(
        texts=tuple(texts), needle=tuple(needle), turns=padded, text_of=torch.tensor(text_of),
        at=torch.cat([torch.arange(start - 1, end - 1) + row * size for row, (start, end) in enumerate(spans)]),
        target=torch.cat([turn[start:end] for turn, (start, end) in zip(turns, spans, strict=True)]), weight=torch.cat(weights),
        answer=torch.cat([torch.full((end - start,), row) for row, (start, end) in enumerate(spans)]),
    )  # fmt: skip


def drawn_positions(rng: random.Random, count: int, tokens: int, reach: int) -> Tensor:
    """Positions [count, tokens] below `reach`, rising by one but for up to eight jumps a row (PoSE, arXiv 2309.10400)."""
    rows: list[Tensor] = []
    for _ in range(count):
        steps = torch.ones(tokens, dtype=torch.long)
        steps[0] = 0
        slack = int((reach - tokens) * rng.random() ** 2) if rng.random() < 0.8 else 0
        jumps = rng.randint(1, 8)
        shares = sorted(rng.random() for _ in range(jumps))
        for share, last in zip(shares, [0.0, *shares[:-1]], strict=True):
            steps[rng.randrange(tokens)] += int(slack * (share - last))
        rows.append(steps.cumsum(0))
    return torch.stack(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """How a batch was answered.

    `exact` is the share of answers of which every token is the likeliest, that is what greedy decoding would copy; `first` and `token` are
    shares of first tokens and of all.
    """

    loss: Tensor
    exact: float
    first: float
    token: float
    answers: int


def grade(logits: Tensor, batch: Batch | TurnBatch) -> Marks:
    """Loss and recall from the logits [A, vocabulary] of the answer tokens."""
    losses = cross_entropy(logits.float(), batch.target, reduction="none")
    right = logits.argmax(-1) == batch.target
    answers = int(batch.answer[-1]) + 1
    wrong = torch.zeros(answers, device=right.device).index_add(0, batch.answer, (~right).float())
    starts = torch.cat([torch.ones(1, dtype=torch.bool, device=right.device), batch.answer[1:] != batch.answer[:-1]])
    return Marks(
        loss=(losses * batch.weight).sum() / batch.weight.sum(),
        exact=float((wrong == 0).float().mean()),
        first=float(right[starts].float().mean()),
        token=float(right.float().mean()),
        answers=answers,
    )
