"""How a model with Infini-attention reads one prompt, in pictures: its gates, what it writes, and where what it reads comes from.

    python benchmarks/pictures.py infini/FOLDER [--out results/pictures] [--tokens 2000] [--depth 0.4] [--needle ID]
        [--template default]

Writes infini-gates.png, infini-writes.png and infini-reads.png; docs/infini-reading.md explains them. The prompt is one of a sweep. In
place of an answer of the model's own, the needle's sentence is written token by token, so that pictures of two models compare.

With the linear rule a read is a mean over all tokens written, so that each token's share of it is known exactly: strength times the
features of its key times those of the query, over the normaliser. With the delta rule there is no such share, and no third picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from niah.config import load_experiment
from niah.engines import BORDER
from niah.engines.chat import Chat
from niah.engines.checkpoint import bundled, open_checkpoint
from niah.engines.infini import attention as mechanism
from niah.engines.infini import reading as reads
from niah.engines.infini.checkpoint import load_checkpoint
from niah.engines.infini.memory import Memory, recall, write_all
from niah.engines.infini.model import InfiniModel
from niah.report.heatmap import COLOURS, DPI, drawn_alike
from niah.report.lettering import INK, SOFT
from niah.run.overview import one_prompt
from niah.trial import Prompt, around_context

ROOT = Path(__file__).parent.parent
OPEN = 0.02
"""A head that takes a smaller share of its output from memory is left out of pictures of memory."""
AROUND = 12
"""Tokens beside the needle that are shown with it."""


@dataclass
class Layer:
    """What one layer did: lists of `[h, n, ...]`, one entry a call."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    strengths: list[Tensor] = field(default_factory=list)
    queries: list[Tensor] = field(default_factory=list)
    stored: list[Tensor] = field(default_factory=list)
    opened: list[Tensor] = field(default_factory=list)
    """What a read gate lets through, `[h, n, 1]`; empty where there is none."""

    def written(self) -> Tensor:
        """How strongly each token was written, `[h, T]`: its strength times the size of its key's features."""
        return torch.cat(self.strengths, 1) * torch.cat(self.keys, 1).sum(-1)

    def shares(self) -> Tensor:
        """Of what each token of the answer reads of the text, the share that each token has, `[h, m, T]`."""
        weight = torch.einsum("hmf,htf->hmt", torch.cat(self.queries, 1), torch.cat(self.keys, 1)) * torch.cat(self.strengths, 1)[:, None]
        return weight / weight.sum(-1, keepdim=True).clamp(min=1e-30)


def _set(functions: dict[Any, dict[str, Any]]) -> None:
    for module, named in functions.items():
        for name, function in named.items():
            setattr(module, name, function)


@contextmanager
def watched(model: InfiniModel) -> Iterator[list[Layer]]:
    """The layers' doings, filled in as the model runs, one text at a time."""
    seen = [Layer() for _ in model.attentions()]
    numbers = {id(attention.config): number for number, attention in enumerate(model.attentions())}
    now = [0]

    def enter(number: int) -> Any:
        return lambda *_: now.__setitem__(0, number)

    def write(key: Tensor, value: Tensor, strength: Tensor | None, start: Memory, config: Any) -> tuple[Memory, Memory]:
        layer = seen[numbers[id(config)]]
        given = key.new_ones(key.shape[:-1]) if strength is None else strength
        for whole, kept in ((key, layer.keys), (value, layer.values), (given, layer.strengths)):
            kept.append(whole[0].transpose(0, 1).flatten(1, 2))
        return write_all(key, value, strength, start, config)

    def read(query: Tensor, memory: Memory, floor: float = 0.0) -> tuple[Tensor, Tensor]:
        stored, known = recall(query, memory, floor)
        seen[now[0]].queries.append(query[0].transpose(0, 1).flatten(1, 2))
        seen[now[0]].stored.append(stored[0].transpose(0, 1).flatten(1, 2))
        return stored, known

    def write_told(features: Any, pair: tuple[Tensor, Tensor], strength: Tensor, start: Memory, config: Any) -> tuple[Memory, Memory]:
        return write(features(pair[0]), pair[1], strength, start, config)  # what is not written has a column too

    def told(query: Tensor, share: Tensor, read_all: Any) -> Tensor:
        stored, known = read_all(query)
        seen[now[0]].opened.append(share[0, 0])
        return stored * known * share

    own = {mechanism: {"write_all": write, "write_told": write_told, "told": told}, reads: {"recall": read}}
    theirs = {module: {name: getattr(module, name) for name in changed} for module, changed in own.items()}
    hooks = [attention.register_forward_pre_hook(enter(number)) for number, attention in enumerate(model.attentions())]
    _set(own)
    try:
        yield seen
    finally:
        _set(theirs)
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A prompt and the needle's sentence, read: `text` and `answer` are tokens as words, `needle` those of the text from .. to."""

    layers: list[Layer]
    text: list[str]
    answer: list[str]
    needle: tuple[int, int]


def read_prompt(model: InfiniModel, chat: Chat, prompt: Prompt, sentence: str) -> Reading:
    """Read a prompt whose cue is prefilled, and then the needle's sentence as its answer."""
    before, _ = around_context(prompt.layout, prompt.question, "")
    start = len(before) + prompt.context.index(sentence)
    *messages, begun = prompt.messages()
    told = [*messages, {**begun, "content": f"{begun['content']} {sentence}"}]

    def tokens(border: int) -> tuple[list[int], int]:
        """The prompt with its answer, and how many tokens stand in front of a character of the user's message."""
        pieces = list(chat.ids(told, border=border))
        cut = next(number for number, piece in enumerate(pieces) if piece is BORDER)
        return list(chain.from_iterable(pieces)), sum(map(len, pieces[:cut]))

    ids, border = tokens(len(before) + len(prompt.context))
    asked = sum(map(len, chat.ids(prompt.messages(), border=len(before) + len(prompt.context)))) - border
    needle = tokens(max(start - 1, 1))[1], tokens(start + len(sentence))[1]
    with watched(model) as layers, torch.inference_mode():
        _, states = model(torch.tensor([ids[:border]]))
        states = model.close_segment(states)
        for layer in layers:
            layer.queries.clear()
            layer.stored.clear()
            layer.opened.clear()
        model(torch.tensor([ids[border:-1]]), states)
    words = [chat.text([id_]) for id_ in ids]
    for layer in layers:
        _trim(layer, border, asked)
    return Reading(layers=layers, text=words[:border], answer=words[border + asked :], needle=needle)


def _trim(layer: Layer, text: int, asked: int) -> None:
    """Keep what was written of the text, token by token, and the queries that the answer's tokens follow from."""
    for kept in (layer.keys, layer.values, layer.strengths):
        kept[:] = [torch.cat(kept, 1)[:, :text]] if kept else []
    for kept in (layer.queries, layer.stored, layer.opened):
        kept[:] = [torch.cat(kept, 1)[:, asked - 1 :]] if kept else []


def open_shares(model: InfiniModel, reading: Reading) -> list[list[float]]:
    """How much of its output each head with a memory takes from it, by layer: with a read gate, at most while the answer is written."""
    pairs = zip(model.attentions(), reading.layers, strict=True)
    return [(layer.opened[0].amax((1, 2)) if layer.opened else attention.memory_share()).tolist() for attention, layer in pairs]


def draw_gates(model: InfiniModel, shares: list[list[float]], path: Path, title: str) -> None:
    heads = max(attention.config.heads for attention in model.attentions())
    with drawn_alike():
        picture, axes = _figure(1.6 + 0.75 * heads, 1.6 + 0.45 * len(shares), title)
        grid = torch.full((len(shares), heads), float("nan"))
        for layer, attention in enumerate(model.attentions()):
            own = attention.config.heads
            for head, share in enumerate(shares[layer], own - len(shares[layer])):
                grid[layer, head] = share
                axes.text(head, layer, f"{share:.0%}", ha="center", va="center", fontsize=8, color="black" if share > 0.6 else "white")
        axes.imshow(grid.numpy(), vmin=0, vmax=1, cmap=COLOURS, aspect="auto")
        axes.set_xticks(range(heads), [str(head) for head in range(heads)])
        axes.set_yticks(range(len(shares)), [str(layer) for layer in range(len(shares))])
        axes.set_xlabel("head (empty: it has no memory)", fontsize=8)
        axes.set_ylabel("layer", fontsize=8)
        _save(picture, path)


def open_heads(model: InfiniModel, open_: list[list[float]]) -> list[tuple[int, int, str]]:
    """(layer, number among its heads with a memory, name) of the heads that take something from memory."""
    found: list[tuple[int, int, str]] = []
    for layer, (attention, shares) in enumerate(zip(model.attentions(), open_, strict=True)):
        first = attention.config.heads - len(shares)
        found += [(layer, head, f"layer {layer} head {head + first}") for head, share in enumerate(shares) if share > OPEN]
    return found


def draw_writes(reading: Reading, heads: Sequence[tuple[int, int, str]], path: Path, title: str) -> None:
    rows = torch.stack([reading.layers[layer].written()[head] for layer, head, _ in heads])
    first, last = reading.needle
    near = slice(max(first - AROUND, 0), min(last + AROUND, len(reading.text)))
    with drawn_alike():
        picture, (above, below) = _figure(9.5, 3.2 + 0.22 * len(heads), title, rows=(0.6 + 0.2 * len(heads), 2.2))
        image = _strip(above, rows, [name for *_, name in heads], reading.needle)
        picture.colorbar(image, ax=above, pad=0.01).ax.tick_params(labelsize=7)
        mean = rows[:, near].mean(0).tolist()
        places = range(near.start, near.stop)
        below.bar(places, mean, color=["#d55e00" if first <= at < last else "#0072b2" for at in places])
        below.set_xticks(places, [_word(word) for word in reading.text[near]], rotation=90, fontsize=6)
        below.set_ylabel("mean strength", fontsize=8)
        below.set_xlim(near.start - 1, near.stop)
        _save(picture, path)


def draw_reads(reading: Reading, heads: Sequence[tuple[int, int, str]], path: Path, title: str) -> None:
    first, last = reading.needle
    shares = [reading.layers[layer].shares()[head] for layer, head, _ in heads]
    found = [float(share[:, first:last].sum(-1).mean()) for share in shares]
    told = [reading.layers[layer].opened for layer, *_ in heads]
    heard = [
        share if not gate else share * float(gate[0][head].mean()) for share, gate, (_, head, _) in zip(found, told, heads, strict=True)
    ]
    # Of what is let through; of several that read little else, the last, which is nearest to what is said.
    best = max(number for number, share in enumerate(heard) if share >= 0.9 * max(heard))
    near = slice(max(first - AROUND, 0), min(last + AROUND, len(reading.text)))
    with drawn_alike():
        sizes = (0.6 + 0.2 * len(heads), 0.6 + 0.1 * len(reading.answer))
        picture, (above, below) = _figure(9.5, 1.6 + sum(sizes), title, rows=sizes)
        names = [f"{name}: needle {share:.0%}" for (*_, name), share in zip(heads, found, strict=True)]
        image = _strip(above, torch.stack([share.mean(0) for share in shares]), names, reading.needle)
        picture.colorbar(image, ax=above, pad=0.01).ax.tick_params(labelsize=7)
        below.imshow(shares[best][:, near].numpy(), cmap=COLOURS, vmin=0, aspect="auto", interpolation="nearest")
        below.set_xticks(range(near.stop - near.start), [_word(word) for word in reading.text[near]], rotation=90, fontsize=6)
        below.set_yticks(range(len(reading.answer)), [_word(word) for word in reading.answer], fontsize=6)
        below.set_ylabel(f"{heads[best][2]}, before it writes", fontsize=8)
        _save(picture, path)


def _strip(axes: Any, rows: Tensor, names: Sequence[str], needle: tuple[int, int]) -> Any:
    """Rows of tokens in logarithmic colours, the needle's place marked above them."""
    top = max(float(rows.max()), 1e-12)
    norm = LogNorm(top * 1e-4, top, clip=True)
    # No pixel for each token: the strongest of its neighbours counts.
    wide = max(1, rows.shape[1] // 1000)
    shown = torch.nn.functional.max_pool1d(rows[None].float(), wide, ceil_mode=True)[0]
    image = axes.imshow(
        shown.numpy(), cmap=COLOURS, norm=norm, aspect="auto", extent=(0, rows.shape[1], len(rows), 0), interpolation="nearest"
    )
    axes.set_yticks([number + 0.5 for number in range(len(rows))], names, fontsize=7)
    axes.set_xlabel("token of the text", fontsize=8)
    axes.annotate("needle", (sum(needle) / 2, 0), (0, 7), textcoords="offset points", ha="center", fontsize=7, color="#d55e00",
                  arrowprops={"arrowstyle": "-", "color": "#d55e00"})  # fmt: skip
    return image


def _figure(width: float, height: float, title: str, rows: Sequence[float] = (1,)) -> tuple[Figure, Any]:
    picture = Figure(figsize=(width, height), layout="constrained")
    picture.suptitle(title, fontsize=8, color=SOFT, parse_math=False)
    axes = picture.subplots(len(rows), 1, height_ratios=rows)
    for each in [axes] if len(rows) == 1 else axes:
        each.tick_params(length=0, labelsize=7, colors=INK)
        each.spines[:].set_visible(False)
    return picture, axes


def _save(picture: Figure, path: Path) -> None:
    picture.savefig(path, format="png", dpi=DPI, metadata={"Software": None})
    print(path)


def _word(token: str) -> str:
    return repr(token)[1:-1].replace("$", r"\$") if token.strip() else repr(token)[1:-1].replace(" ", "␣")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "pictures")
    parser.add_argument("--corpus", default="builtin/medical")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--depth", type=float, default=0.4)
    parser.add_argument("--needle")
    parser.add_argument("--template", default="default")
    asked = parser.parse_args(words)
    name = asked.model.removeprefix("infini/")
    checkpoint = open_checkpoint(bundled("infini") if name == "bundled" else name)
    model, chat = load_checkpoint(checkpoint.folder), Chat(checkpoint.folder)
    shape = {"corpora": [asked.corpus], "lengths": [asked.tokens], "depths": [asked.depth], "cue": ["prefill"], "template": asked.template}
    prompt, sentences, _ = one_prompt(load_experiment("quickstart", shape), reshuffle=0, needle=asked.needle)
    reading = read_prompt(model, chat, prompt, sentences[0])
    shares = open_shares(model, reading)
    heads = open_heads(model, shares)
    title = f"{checkpoint.served}: {len(reading.text):,} tokens of {asked.corpus}, needle {prompt.placements[0].needle}"
    asked.out.mkdir(parents=True, exist_ok=True)
    draw_gates(model, shares, asked.out / "infini-gates.png", checkpoint.served)
    if not heads:
        raise SystemExit("no head takes anything from memory: there is nothing to draw of it")
    draw_writes(reading, heads, asked.out / "infini-writes.png", title)
    if any(attention.config.rule != "linear" for attention in model.attentions()):
        raise SystemExit("with the delta rule a read has no shares: infini-reads.png is not drawn")
    draw_reads(reading, heads, asked.out / "infini-reads.png", title)


if __name__ == "__main__":
    main()
