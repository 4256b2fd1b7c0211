"""Episodes in the words of any checkpoint: its own tokenizer and chat template, the same tokens that the engines make of a prompt."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from niah.engines.checkpoint import first_line, quiet
from niah.errors import UsageError
from niah.training.episodes import Episode, Talk, answer_weights
from niah.training.noise import Piece

_FIRST, _ANSWER, _SECOND, _BEGUN = "niah-first", "niah-answer", "niah-second", "niah-begun"


class Template:
    """A `Script` (niah/training/episodes.py). UsageError for a tokenizer that tells no places of its tokens, or has no token to end with.

    Without a chat template messages are joined by empty lines, as the engines do with a base model, and the end of text ends an answer.
    """

    def __init__(self, folder: Path):
        transformers = quiet()
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # of many libraries
            raise UsageError(f"the tokenizer of {folder} cannot be read: {first_line(error)}") from None
        if not self._tokenizer.is_fast:
            raise UsageError(f"the tokenizer of {folder} has no tokenizer.json: training needs to know where its tokens stand")
        if self._tokenizer.eos_token is None:
            raise UsageError(f"the tokenizer of {folder} names no token that ends a text (eos_token)")
        self.raw = not self._tokenizer.chat_template
        self.pad = int(self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else self._tokenizer.eos_token_id)
        self._takes_system = self.raw or self._knows_system()
        self._between, self._begin, self._begin_with_cue = self._around_answers()

    def save(self, folder: Path) -> None:
        """Writes the tokenizer and its chat template into a checkpoint's folder."""
        self._tokenizer.save_pretrained(folder)

    def count(self, text: str) -> int:
        return len(self._ids(text))

    def room(self, talk: Talk, tokens: int) -> int:
        before, closing, behind = self._frame(talk)
        return tokens - self.count("".join([before, closing, *(asked + answer + self._between for asked, answer in behind)])) - 4

    def episode(self, talk: Talk, pieces: Sequence[Piece], tokens: int) -> Episode:
        """Encoded as one text; sentences from the end of the text are left out as long as it does not fit."""
        pieces = list(pieces)
        while True:
            episode, over = self._episode(talk, pieces, tokens)
            fillers = [number for number, piece in enumerate(pieces) if piece.needle is None]
            if over <= 0 or not fillers:
                return episode
            while over > 0 and fillers:
                over -= self.count(pieces.pop(fillers.pop()).text)

    def _episode(self, talk: Talk, pieces: Sequence[Piece], tokens: int) -> tuple[Episode, int]:
        """The episode cut at `tokens`, and how many tokens it lacked."""
        before, closing, behind = self._frame(talk)
        texts = [piece.text if number else piece.text.lstrip() for number, piece in enumerate(pieces)]
        borders = np.cumsum([len(before), *(len(text) for text in texts)])
        parts, spans, at = [before, *texts, closing], [], int(borders[-1]) + len(closing)
        for number, (asked, answer) in enumerate(behind):
            start = int(borders[-1]) if number == 0 else at
            at += len(asked) + len(answer)
            spans.append((start, at - len(answer), at))
            parts += [asked, answer, self._between]
            at += len(self._between)
        ids, places = self._encoded("".join(parts))
        last = np.maximum(places[:, 1] - 1, places[:, 0])
        piece_of = np.searchsorted(borders, last, side="right") - 1
        inside = (piece_of >= 0) & (piece_of < len(pieces))
        numbers = np.array([-1 if piece.needle is None else piece.needle for piece in pieces] + [-1], dtype=np.int64)
        needle = np.where(inside, numbers[np.where(inside, piece_of, -1)], -1)
        weights = np.zeros(len(ids), dtype=np.float32)
        turns: list[tuple[int, int, int]] = []
        for asked_at, answer_at, end_at in spans:
            # What ends the answer is the one token behind it.
            first, end = int(np.searchsorted(places[:, 1], answer_at, side="right")), int(np.searchsorted(places[:, 0], end_at)) + 1
            weights[first:end] = answer_weights(end - first)
            turns.append((int(np.searchsorted(places[:, 1], asked_at, side="right")), first, min(end, len(ids))))
        size = turns[-1][2]
        context = np.flatnonzero(inside)
        span = (int(context[0]), int(context[-1]) + 1) if len(context) else (0, 0)
        made = Episode(
            ids=ids[: min(size, tokens)], weights=weights[: min(size, tokens)], needle=needle[: min(size, tokens)],
            context=span, turns=tuple(turn for turn in turns if turn[2] <= tokens),
        )  # fmt: skip
        return made, size - tokens

    def _frame(self, talk: Talk) -> tuple[str, str, list[tuple[str, str]]]:
        """In front of the text, behind it, and each turn: what comes before its answer, the answer."""
        before = self._prompt(talk.system, f"{talk.opening}{_FIRST}{talk.turns[0].asked}", begun=talk.turns[0].begun)
        head, _, closing = before.partition(_FIRST)
        behind: list[tuple[str, str]] = []
        for number, turn in enumerate(talk.turns):
            asked = turn.asked + (self._begin_with_cue + turn.begun if turn.begun else self._begin)
            behind.append((asked if number else "", f" {turn.answer}" if turn.begun or self.raw else turn.answer))
        return head, closing, behind

    def _prompt(self, system: str | None, user: str, *turns: str, begun: str = "") -> str:
        """A prompt as rendered, up to an answer, with what that begins with; the messages are the user's and the assistant's by turns."""
        if system is not None and not self._takes_system:
            system, user = None, f"{system}\n\n{user}"
        contents = [user, *turns, *([begun] if begun else [])]
        if self.raw:
            texts = [*([] if system is None else [system]), *contents]
            return "\n\n".join(texts)
        messages = [{"role": "user" if number % 2 == 0 else "assistant", "content": content} for number, content in enumerate(contents)]
        messages = messages if system is None else [{"role": "system", "content": system}, *messages]
        how = {"continue_final_message": True} if begun else {"add_generation_prompt": True}
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, **how))

    def _knows_system(self) -> bool:
        try:
            self._takes_system = True
            return "niah-system" in self._prompt("niah-system", _FIRST)
        except Exception:  # templates are programs: they raise what they like
            return False

    def _around_answers(self) -> tuple[str, str, str]:
        """What stands between an answer and the next question, its end first; between a question and its answer; there with a cue."""
        if self.raw:
            return f"{self._tokenizer.eos_token}\n\n", "", "\n\n"
        try:
            _, _, rest = self._prompt(None, _FIRST, _ANSWER, _SECOND).partition(_ANSWER)
            cued = self._prompt(None, _FIRST, _ANSWER, _SECOND, begun=_BEGUN)
        except Exception as error:  # as below
            raise UsageError(f"the checkpoint's chat template cannot be used: {first_line(error)}") from None
        between, found, begin = rest.partition(_SECOND)
        if not found or _FIRST not in cued or not cued.endswith(_BEGUN):
            raise UsageError("the checkpoint's chat template does not write messages as they are: niah cannot train with it")
        return between, begin, cued.rpartition(_SECOND)[2].removesuffix(_BEGUN)

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids

    def _encoded(self, text: str) -> tuple[Any, Any]:
        """Ids [n] and where each token begins and ends in the text [n, 2]. A base model's text begins as its tokenizer has it."""
        made = self._tokenizer.backend_tokenizer.encode(text, add_special_tokens=self.raw)
        kept = len(made.ids) - (1 if self.raw and made.ids[-1:] == [self._tokenizer.eos_token_id] and made.offsets[-1] == (0, 0) else 0)
        return np.array(made.ids[:kept], dtype=np.int64), np.array(made.offsets[:kept], dtype=np.int64)
