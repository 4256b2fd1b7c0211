"""From the `full` reader to the `infini` reader: its heads as they are, and heads that file in memory and ask of it.

Within sight (a segment, the end of the one before, the text's first tokens) the infini reader reads as the full one does. With a question
in front of a text it knows while it reads how much a sentence is about it, and files that; without one it files what is new. Parts of the
stream, beside those of structure.py:

    QNL, NL  ends a paragraph with a question, ends a paragraph      QF  stands in the user's first paragraph
    Q  a question stands in front of the text                        HIT the question in front holds my word, by its rarity
    R  these three tokens stood here before                          M, N  how many of the last 40 tokens are hits, or stood here
    P  the largest M near me, if there is a question                 OLD nearly all that is near stood here before

    layer 0  a head for QF
    layer 1  heads for R, HIT and Q
    layer 2  a head for M and N
    layer 3  heads for OLD and P
    layer 4  two heads with a memory: where M is large and the content is alike -> how its sentence begins; the last three tokens -> the
             next one, by preference where the content is alike. What is filed rises with P where a question stands in front, and falls
             with OLD
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from niah.engines.infini.attention import InfiniAttention
from niah.engines.infini.model import InfiniModel
from niah.training.structure import B_PART, C_PART, I_PART, ONE_AT, RARE_AT, S_PART, SLOW, T_PART, Head

QNL_AT, NL_AT, QF_AT, R_AT, N_AT, HIT_AT, M_AT, Q_AT, OLD_AT, P_AT = *range(319, 328), 310
D_MODEL, MLP = 328, 48
LOCAL_HEADS = (5, 4, 2, 3, 4)
SHARED_HEADS = (4, 1, 1, 1, 4)
"""So many of a layer's first heads are the full reader's; its others do nothing (docs/LOG.md)."""
BEGIN, GRAMS = 4, 5
"""The heads of the last layer with a memory."""
GRAMS_LENGTH, CONTENT_LENGTH, MOST_LENGTH = 10.0, 4.0, 10.0
"""Of the memory's keys and queries: the codes of three tokens, the content, the M of a place."""
GRAMS_TIMES, BEGIN_TIMES = 1.2, 0.5
"""How loud they tell what they read, compared with the full reader's heads."""
_USER = 8188
_UNUSED = 12
"""A dimension that no head of the full reader uses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Tokens [vocabulary] that end a paragraph, and those that end one with a question."""

    paragraph: Tensor
    question: Tensor


def graft(model: InfiniModel, full: Mapping[str, Tensor], marks: Marks, sample: Tensor) -> None:
    """Fills `model` (in place) from the weights of the full reader, named as `niah.training.llama.Llama` names them.

    On `sample` [b, t], token ids of natural texts with a question in front, as long as a segment, sizes are measured.
    """
    with torch.no_grad():
        _take(model, full)
        for at in (QNL_AT, P_AT):
            _clear(model, at)
        embed = model.embed.weight
        embed[marks.question, QNL_AT] = 1.0
        embed[marks.paragraph, NL_AT] = 1.0
        embed[_USER, NL_AT], embed[_USER, QF_AT] = 1.0, 0.1
        heads = [_heads(attention) for attention in model.attentions()]
        for layer, build in enumerate((_mark, _compare, _count, _judge)):
            x = _input(model, sample, layer)
            first = _tell_first(x)
            build(heads[layer], _size(model, sample, layer), first)
            for head in heads[layer][SHARED_HEADS[layer] :]:
                head.v -= (head.v @ x[:, 0].mean(0))[:, None] * first  # what is found there is nothing
        sizes = [_size(model, sample, layer) for layer in range(5)]
        _remember(model, heads, sizes, _input(model, sample, 4))


def _take(model: InfiniModel, full: Mapping[str, Tensor]) -> None:
    """The full reader's weights, in front of nothing: heads, neurons and parts of the stream of its own are zero."""
    own = model.state_dict()
    for name, tensor in full.items():
        to = own[_renamed(name)]
        to.zero_()
        given = tensor
        if "mlp" in name and "norm" not in name:
            kept = _neurons(full, name)
            given = tensor[:, kept] if "down" in name else tensor[kept]
        taken = tuple(slice(min(theirs, ours)) for theirs, ours in zip(given.shape, to.shape, strict=True))
        if "self_attn" in name:
            heads = SHARED_HEADS[int(name.split(".")[1])] * model.config.layers[0].head_dim
            at = given.ndim - 1 if "o_proj.weight" in name else 0
            taken = tuple(slice(heads) if "o_proj.bias" not in name and i == at else each for i, each in enumerate(taken))
        to[taken] = given[taken]
        if ("o_proj" in name or "down_proj" in name) and "layers.4" not in name:
            to[I_PART] = 0.0  # memory's keys are as alike as the tokens are
        if "norm" in name:
            # The longer stream has the same size, so its mean square is smaller.
            to.mul_(math.sqrt(tensor.shape[0] / to.shape[0]))
            to[tensor.shape[0] :] = 0.0 if name == "norm.weight" else 1.0
    model.load_state_dict(own)


def _clear(model: InfiniModel, at: int) -> None:
    """A place of the stream that the full reader has too, and makes no use of."""
    model.embed.weight[:, at] = 0.0
    for name, parameter in model.named_parameters():
        if "o_proj" in name or "down_proj" in name:
            parameter[at] = 0.0
        elif parameter.ndim == 2 and parameter.shape[1] == D_MODEL and "embed" not in name:
            parameter[:, at] = 0.0


def _neurons(full: Mapping[str, Tensor], name: str) -> Tensor:
    """The MLP's most important neurons."""
    layer = name.rpartition(".mlp.")[0] + ".mlp."
    sizes = [full[f"{layer}{part}_proj.weight"].norm(dim=1 - at) for part, at in (("gate", 0), ("up", 0), ("down", 1))]
    return (sizes[0] * sizes[1] * sizes[2]).topk(min(MLP, len(sizes[0]))).indices.sort().values


def _renamed(name: str) -> str:
    for theirs, ours in (
        ("embed_tokens", "embed"), ("self_attn", "attention"), ("input_layernorm", "input_norm"), ("post_attention_layernorm", "mlp_norm"),
    ):  # fmt: skip
        name = name.replace(theirs, ours)
    return name


def _heads(attention: InfiniAttention) -> list[Head]:
    size = attention.config.head_dim
    half = torch.arange(0, size, 2, dtype=torch.float64) / size
    return [Head(attention, number, attention.config.rope_theta**-half) for number in range(attention.config.heads)]


def _input(model: InfiniModel, sample: Tensor, layer: int, *, normed: bool = True) -> Tensor:
    """What a layer's attention is given [b, t, d_model], or what the norm in front of it is."""
    found: list[Tensor] = []

    def collect(_: nn.Module, given: tuple[Tensor], out: Tensor) -> None:
        found.append(out if normed else given[0])

    hook = model.layers[layer].get_submodule("input_norm").register_forward_hook(collect)
    model(sample)
    hook.remove()
    return found[0]


def _size(model: InfiniModel, sample: Tensor, layer: int) -> Tensor:
    """By how much the norm in front of a layer's attention multiplies the stream [d_model], in the mean over a text."""
    stream = _input(model, sample, layer, normed=False)[:, 1:]
    return stream.square().mean(-1).rsqrt().mean() * model.layers[layer].get_submodule("input_norm").get_parameter("weight")


def _tell_first(x: Tensor) -> Tensor:
    """A direction [d_model] along which inputs `x` [b, t, d_model] are 1 at the first token, and as little as can be elsewhere."""
    first, others = x[:, 0].mean(0), x[:, 1:].flatten(0, 1)
    spread = others.T @ others / len(others)
    told = torch.linalg.solve(spread + 1e-3 * spread.diagonal().mean() * torch.eye(len(first)), first)
    return told / (told @ first)


def _mark(heads: list[Head], size: Tensor, bos: Tensor) -> None:
    """QF: in front of me stands no question's end, and of the paragraphs' ends the nearest is the user's mark."""
    del bos
    own = heads[4]
    own.near(0.04, 8e-5, 5.0)
    at = int(own.free[0])
    own.wants(at, {NL_AT: 20.0, QNL_AT: 20.0}, size)
    # The end of the question's paragraph is a part of it.
    own.q[at + 1, QNL_AT], own.k[at + 1, QNL_AT] = -80.0 * own.scale / size[QNL_AT], own.scale / size[QNL_AT]
    own.takes(slice(QF_AT, QF_AT + 1), slice(QF_AT, QF_AT + 1), 0, 10.0, size)


def _compare(heads: list[Head], size: Tensor, bos: Tensor) -> None:
    _, again, hit, asked = heads
    grams = torch.zeros(60, again.q.shape[1])
    grams[:, B_PART] = torch.eye(60)
    again.like(again.free[:60], grams, grams, 40.0, size)
    again.near(1.0, 0.005, -16.0)  # not with myself
    again.finds_nothing(140.0, size, bos)
    again.takes(slice(ONE_AT, ONE_AT + 1), slice(R_AT, R_AT + 1), 0, 1.0, size)
    own = torch.zeros(len(hit.free), hit.q.shape[1])
    own[:, I_PART] = torch.eye(96)[: len(hit.free)]
    hit.like(hit.free, own, own, 60.0, size)
    hit.finds_nothing(78.0, size, bos)
    hit.k[SLOW, QF_AT] += 70.0 * hit.scale / size[QF_AT]
    hit.q[SLOW, QF_AT] = 12.0 * hit.scale / size[QF_AT]  # the question is no hit of itself
    hit.takes(slice(RARE_AT, RARE_AT + 1), slice(HIT_AT, HIT_AT + 1), 0, 1.0, size)
    asked.wants(int(asked.free[0]), {QNL_AT: 20.0, QF_AT: 20.0}, size)
    asked.finds_nothing(24.0, size, bos)
    asked.q[SLOW], asked.q_bias[SLOW] = 0.0, asked.scale
    asked.takes(slice(ONE_AT, ONE_AT + 1), slice(Q_AT, Q_AT + 1), 0, 1.0, size)


def _count(heads: list[Head], size: Tensor, bos: Tensor) -> None:
    del bos
    much = heads[1]
    much.near(0.03, 3e-5, 4.0)
    much.takes(slice(HIT_AT, HIT_AT + 1), slice(M_AT, M_AT + 1), 0, 20.0, size)
    much.takes(slice(R_AT, R_AT + 1), slice(N_AT, N_AT + 1), 1, 1.0, size)


def _judge(heads: list[Head], size: Tensor, bos: Tensor) -> None:
    _, old, most = heads
    # Where much is new it finds nothing, else it looks at itself.
    old.near(1.0, 3e-5, 3.0)
    old.finds_nothing(124.0, size, bos)
    old.q[SLOW, N_AT] = -1.4 * old.scale / size[N_AT]
    old.takes(slice(ONE_AT, ONE_AT + 1), slice(OLD_AT, OLD_AT + 1), 0, 1.0, size)
    most.near(0.03, 3e-5, 4.0)
    most.wants(int(most.free[0]), {M_AT: 4.0}, size)
    most.finds_nothing(120.0, size, bos)
    most.q[SLOW, Q_AT] = -1.6 * most.scale / size[Q_AT]
    most.takes(slice(M_AT, M_AT + 1), slice(P_AT, P_AT + 1), 0, 1.0, size)


def _mix(attention: InfiniAttention) -> None:
    """The convolution of the heads with a memory: to a key I of the three tokens in front of its own, to a query of the last three."""
    assert attention.conv is not None
    random = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (3, 96), generator=random) * 2.0 - 1
    taps = attention.conv.weight[:, 0]
    taps.zero_()
    for back in range(3):
        taps[0, back, I_PART] += signs[back]
        taps[1, back + 1, I_PART] += signs[back]
    taps[:2, 0, I_PART] -= 1.0  # which the convolution adds its outputs to


def _remember(model: InfiniModel, heads: list[list[Head]], size: list[Tensor], given: Tensor) -> None:
    first, x = _tell_first(given), given[:, 1:].flatten(0, 1)
    copy, again, _, clean, begin, grams = heads[4]
    width = begin.q.shape[1]
    begin.q_bias[0], begin.k[0, M_AT] = 1.0, 10.0 / size[4][M_AT]
    _mix(model.attentions()[-1])
    grams.q[:96, I_PART] = grams.k[:96, I_PART] = torch.eye(96)
    grams.v.copy_(copy.v)
    grams.o.copy_(copy.o * GRAMS_TIMES)
    for head, about in ((begin, slice(1, 61)), (grams, slice(96, 112))):
        content = torch.zeros(about.stop - about.start, width)
        content[:, C_PART] = torch.eye(60)[: len(content)]
        for rows in (head.q, head.k):
            rows[about] = content * CONTENT_LENGTH / (x @ content.T).norm(dim=-1).mean()
    for rows in (grams.q, grams.k):
        rows[:96] *= GRAMS_LENGTH / (x[:, I_PART].norm(dim=-1).mean() * math.sqrt(3))
    begin.q_bias[0] = MOST_LENGTH
    # What a place's S becomes on its way through the heads that find, ask and begin.
    way = torch.eye(S_PART.stop - S_PART.start)
    for layer, part in ((2, S_PART), (3, T_PART), (4, T_PART)):
        head = heads[layer][2 if layer == 4 else 0]
        way = (head.o @ head.v[:, part] * size[layer][part])[T_PART if layer < 4 else slice(None)] @ way
    begin.takes(S_PART, S_PART, 0, 0.0, size[4])
    begin.o[:, : way.shape[1]] = way * BEGIN_TIMES
    # A question in front is answered from what was filed.
    for head in (copy, again, clean):
        for part in (head.q, head.k):
            part[_UNUSED] = 0.0
        head.q_bias[_UNUSED] = head.k_bias[_UNUSED] = 0.0
        head.q[_UNUSED, Q_AT] = head.scale / size[4][Q_AT]
        head.k[_UNUSED] = 60.0 * head.scale * first
    gate = model.attentions()[-1].write_gate
    assert gate is not None
    gate.weight.zero_()
    gate.bias.fill_(-50.0)
    for at, strength in ((P_AT, 7.0), (Q_AT, -4.0), (OLD_AT, -14.0)):
        gate.weight[:, at] = strength / size[4][at]
