"""A checkpoint's own tokenizer and chat template: messages into token ids, ids into text.

What stands in a message is text: "<|eot_id|>" in a haystack becomes the tokens of these characters and never the special token. All else
is encoded as one text, so that ids are those that any server makes of the same messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from niah.engines import BORDER, EngineError
from niah.engines.checkpoint import first_line, quiet

_PIECE_CHARACTERS = 1 << 16
_BORDER = re.compile(r"(?<=[A-Za-z]) (?=[A-Za-z])")
_PROBE = "niah-probe"


def splits_at_words(settings: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json is a byte-level BPE without normaliser whose text is first split into words by a known pattern.

    Then no token crosses from a letter to a blank that a letter follows, and neither side changes when the text is cut there.
    """
    if settings.get("normalizer") or settings.get("added_tokens_decoder"):
        return False
    step = settings.get("pre_tokenizer") or {}
    steps: list[dict[str, Any]] = step.get("pretokenizers", [step])
    level = steps[-1]
    if level.get("type") != "ByteLevel" or level.get("add_prefix_space", True):
        return False
    if len(steps) == 1:
        return bool(level.get("use_regex", True))
    return all(item.get("type") == "Split" and r"\p{L}+" in str(item.get("pattern", {}).get("Regex", "")) for item in steps[:-1][:1])


class Chat:
    """Reads and writes a model's tokens. With `raw`, or where there is no template, messages are joined by empty lines.

    `stop_ids` end an answer: the tokenizer's end of text, and what the template puts behind a turn. `notes` are for people.
    """

    def __init__(self, folder: Path, *, raw: bool = False):
        self._tokenizer = _tokenizer(folder)
        self.raw = raw or not self._tokenizer.chat_template
        self.notes: list[str] = []
        if self.raw and not raw:
            self.notes.append(
                "no chat template: the parts of a prompt are joined by empty lines, and nothing but the cap may end an answer"
            )
        self._merges_system = False
        if not self.raw and self._refusal("system"):
            self._merges_system = True
            if why := self._refusal():
                raise EngineError(f"its chat template cannot be used: {why}", kind="checkpoint")
            self.notes.append("its chat template knows no system message: ours stands at the beginning of the user's")
        self._encode, self._encode_text, self._cuts = _encoders(self._tokenizer)
        self._markers = None if self.raw else _markers(self._tokenizer)
        self.stop_ids = self._ends()

    def ids(self, messages: Sequence[Mapping[str, str]], *, border: int = 0) -> Iterator[Sequence[int]]:
        """The tokens of messages with `role` and `content`, in pieces; a last one of the assistant's is a begun answer, to be gone on with.

        With `border`, a `BORDER` stands behind so many characters of the user's message, and what follows is encoded apart.
        EngineError (prompt) where the template does not take them.
        """
        if not border:
            yield from self._ids(messages)
            return
        edge = _unused(messages)
        parted = [_with_edge(message, border, edge) if message["role"] == "user" else message for message in messages]
        yield from self._ids(parted, edge)

    def _ids(self, messages: Sequence[Mapping[str, str]], edge: str = "") -> Iterator[Sequence[int]]:
        if self.raw:
            yield self._lead()
            text = "\n\n".join(message["content"] for message in messages)
            yield from self._encoded(text, edge, self._encode_text)
            return
        found = self._markers.findall("\n".join(message["content"] for message in messages)) if self._markers else []
        stand_in = _unused(messages) if found else ""
        if stand_in and self._markers:
            markers = self._markers
            messages = [{**message, "content": markers.sub(stand_in, message["content"])} for message in messages]
        parts = self._render(messages).split(stand_in) if stand_in else [self._render(messages)]
        for number, part in enumerate(parts):
            if number:
                yield self._encode_text(found[number - 1])
            yield from self._encoded(part, edge, self._encode)

    def _encoded(self, text: str, edge: str, encode: Callable[[str], list[int]]) -> Iterator[Sequence[int]]:
        for number, part in enumerate(text.split(edge) if edge else [text]):
            if number:
                yield BORDER
            for piece in self._pieces(part):
                yield encode(piece)

    def text(self, ids: Sequence[int]) -> str:
        """The text of generated tokens, without special ones."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _render(self, messages: Sequence[Mapping[str, str]]) -> str:
        if self._merges_system and messages[0]["role"] == "system":
            first = {**messages[1], "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
            messages = [first, *messages[2:]]
        begun = messages[-1]["role"] == "assistant"
        try:
            how = {"continue_final_message": True} if begun else {"add_generation_prompt": True}
            return self._tokenizer.apply_chat_template([*messages], tokenize=False, **how)
        except Exception as error:  # templates are programs: they raise what they like
            hint = ": try --cue user" if begun else ""
            raise EngineError(f"its chat template does not take the prompt ({first_line(error)}){hint}", kind="prompt") from None

    def _pieces(self, text: str) -> Iterator[str]:
        """The text cut between words, where that changes no token: what the tokenizer keeps of a text is a hundred times its ids."""
        start = 0
        while self._cuts and len(text) - start > _PIECE_CHARACTERS:
            border = _BORDER.search(text, start + _PIECE_CHARACTERS)
            if border is None:
                break
            yield text[start : border.start()]
            start = border.start()
        yield text[start:]

    def _refusal(self, *roles: str) -> str:
        """What the template says against messages of these roles in front of the user's; "" if it takes them."""
        messages = [{"role": role, "content": _PROBE} for role in (*roles, "user")]
        try:
            self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # as above
            return first_line(error)
        return ""

    def _lead(self) -> list[int]:
        """What the tokenizer puts in front of any text, such as the token of its beginning."""
        plain, whole = self._encode_text(_PROBE), list(self._tokenizer.encode(_PROBE, add_special_tokens=True))
        at = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
        return whole[:at]

    def _ends(self) -> frozenset[int]:
        ends = {self._tokenizer.eos_token_id} - {None}
        if not self.raw:
            turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}]
            try:
                rendered = str(self._tokenizer.apply_chat_template(turns, tokenize=False))
            except Exception:  # as above
                return frozenset(ends)
            behind = self._encode(rendered.rpartition(_PROBE)[2].lstrip())
            ends |= {*behind[:1]} & {*self._tokenizer.added_tokens_decoder}
        return frozenset(ends)


def _tokenizer(folder: Path) -> Any:
    transformers = quiet()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        works = bool(tokenizer.encode(_PROBE, add_special_tokens=False))
    except Exception as error:  # of many libraries
        why = first_line(error) if (folder / "tokenizer.json").is_file() else "there is no tokenizer.json"
        raise EngineError(f"its tokenizer cannot be read: {why}", kind="checkpoint") from None
    if not works:
        raise EngineError("its tokenizer makes no tokens of text: perhaps tokenizer.json is missing", kind="checkpoint")
    return tokenizer


def _encoders(tokenizer: Any) -> tuple[Callable[[str], list[int]], Callable[[str], list[int]], bool]:
    """(text with markers of special tokens into ids, the same with markers taken as text, whether text may be cut between words)."""
    if not tokenizer.is_fast:
        return (
            lambda text: tokenizer.encode(text, add_special_tokens=False),
            lambda text: tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True),
            False,
        )
    import tokenizers

    whole = tokenizer.backend_tokenizer
    settings = json.loads(whole.to_str())
    added = [token["content"] for token in settings["added_tokens"]]
    plain = tokenizers.Tokenizer.from_str(json.dumps({**settings, "added_tokens": [], "post_processor": None}))
    for each in (whole, plain):
        each.no_truncation()
        each.no_padding()
    return (
        lambda text: whole.encode(text, add_special_tokens=False).ids,
        lambda text: plain.encode(text, add_special_tokens=False).ids,
        splits_at_words(settings) and not any(_BORDER.search(content) for content in added),
    )


def _markers(tokenizer: Any) -> re.Pattern[str] | None:
    """Finds what would become a special token: the special ones, and others that the template itself writes."""
    template = str(tokenizer.chat_template)
    tokens = tokenizer.added_tokens_decoder.values()
    contents = {str(token.content) for token in tokens if token.content.strip() and (token.special or token.content in template)}
    longest_first = sorted(contents, key=lambda content: (-len(content), content))
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def _with_edge(message: Mapping[str, str], border: int, edge: str) -> dict[str, str]:
    content = message["content"]
    return {**message, "content": content[:border] + edge + content[border:]}


def _unused(messages: Sequence[Mapping[str, str]]) -> str:
    """A character for private use that stands in no message."""
    used = {character for message in messages for character in set(message["content"])}
    return next(character for character in map(chr, range(0xE000, 0xF900)) if character not in used)
