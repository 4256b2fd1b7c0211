"""Structured initial weights of `full`: a retrieval circuit in which every sentence has an address, that training then refines.

A model of this size is expected to need tens of millions of tokens before it copies at all from random weights. So the stream
starts out divided into parts, and the first heads start out with one task each:

    I  who am I: a unit code of the token, alike for forms of one word   N  the code of the token before me
    B  those of the two before that, a rotation a step                   E, E1  I end a sentence; the token before me does
    PO  where I stand: cosines and sines of my position                  PS  where my sentence begins
    PV  where the sentences begin that my word stands in                 PA  where the sentence begins that is asked for
    F  I am among the text's first two, three, four tokens               FOUND  my word stands elsewhere too
    SHORT, SHORT2  a full stop behind me, or behind the token two before me, shortens a word
    GLUED  I go on with what stands before me: no sentence begins here   START, START1  a sentence begins with me, began before me
    ASK, ASKED  I ask; somebody near me asks                             RARE  how rare my word is
    FIRST  an answer begins behind me

    layer 0  three heads look back 1, 2 and 3 tokens (N, B, E1, SHORT2, F), one averages a window (ASKED); two neurons for START
    layer 1  four heads compare the distances to the first four tokens (PO): rotary embeddings tell relative places alone
    layer 2  one head looks at the beginning of its sentence (PS)
    layer 3  one head looks behind its own word elsewhere, at all such places alike (the mean of their PS: PV)
    layer 4  one head averages PV over the question's rare words that were found (PA). Words that stand in many sentences point
             nowhere, those of one sentence point to one address: the sum is a vote
    layer 5  one head begins the answer with the token at the address; two look for the token behind the last two or three of the
             answer, in the sentence of that address, and copy it; one ends the answer where a sentence begins

The first token of all holds no code: a head that finds nothing looks there and adds nothing. Everything else starts small and
random. Nothing in here knows a needle, a template or a text but token frequencies, and the cue.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from niah.training.llama import Llama, LlamaShape
from niah.training.parts import (
    ASK_AT,
    ASKED_AT,
    B_PART,
    BEFORE,
    BOS_AT,
    CODE,
    D_MODEL,
    E1_AT,
    E_AT,
    F_AT,
    FIRST_AT,
    FOUND_AT,
    GLUED_AT,
    I_PART,
    MARK,
    N_PART,
    ONE,
    ONE_AT,
    PA_PART,
    PLACE,
    PO_PART,
    PREVIOUS,
    PS_PART,
    PV_PART,
    RARE_AT,
    RATIO,
    SHORT2_AT,
    SHORT_AT,
    START1_AT,
    START_AT,
    CircuitHead,
    Codes,
    Given,
    neuron,
    one,
    placed,
    sizes,
)
from niah.training.structure import Vocabulary, rarities, unit

SHAPE = LlamaShape(
    hidden_size=D_MODEL, intermediate_size=96, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=4, head_dim=96,
    rope_theta=RATIO**48,
)  # fmt: skip
REACH_TOKENS = 40_960
"""Up to here the codes of positions were fitted."""
_BOS, _ASSISTANT, _END = 8184, 8189, 8190
_PLACES = (2, 3, 4, 5, 6, 7)
"""Pairs whose cosines and sines make an address: they turn once in 53 to 10,800 tokens."""
BACK = {0: 10.0, 1: 10.0, 2: 6.0} | dict.fromkeys(range(3, 10), 4.0)
WINDOW = {3: 3.0, 4: 5.0} | dict.fromkeys(range(5, 10), 4.0)
SENTENCE = {3: 6.0} | dict.fromkeys(range(4, 11), 20.0)
QUESTION = {3: 9.0, 4: 24.0, 5: 16.0} | dict.fromkeys(range(6, 11), 12.0)
"""Strengths of nearness by pair: of a look back, a window of 40 tokens, a sentence, a question. Slow pairs keep far tokens out."""
HERE, MATCH, NO_MATCH, RARE, FOUND, ASK = 45.0, 80.0, 52.0, 5.5, 12.0, 24.0
GRAM_SIZES, GRAMS = (28, 32), (40.0, 50.0)
ADDRESS, NO_COPY, BEGIN, NO_BEGIN, FIRST, SECOND = 120.0, 45.0, 42.0, 45.0, 170.0, 25.0
TO_BEGIN = 220.0
COPY_TIMES, BEGIN_TIMES, END_TIMES = 10.0, 8.0, 40.0
_ANCHOR, _SWING = 25.0, 0.35


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What the circuit takes into account of each token [vocabulary], and the two tokens that the cue ends with."""

    words: Vocabulary
    glued: Tensor
    full_stop: Tensor
    cue: tuple[int, int]


def initialise(model: Llama, signs: Signs, sample: Tensor, seed: int) -> None:
    """Fills `model` (in place), whose shape is `SHAPE`. On `sample` [b, t], token ids of some texts, sizes are measured."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            elif parameter.ndim == 1 or "o_proj" in name or "down_proj" in name:
                parameter.zero_()
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=random) * (0.06 if "mlp" in name else 0.02))
        code = _embed(model, signs, random)
        codes = Codes(random)
        colon, documents = signs.cue[1], signs.cue[0]
        first = placed((code[colon][None] / 2, I_PART), ((codes.previous @ code[documents])[None] / 2, N_PART))[0]
        first[FIRST_AT] = 1.0
        second = placed(
            ((codes.previous @ (code[_ASSISTANT] + code[colon] / 2))[None], N_PART),
            ((codes.turn @ codes.entry @ code[documents])[None] / 2, B_PART),
        )
        steps: Sequence[Callable[[list[CircuitHead]], None]] = (
            lambda heads: _look_around(heads, codes),
            lambda heads: _locate(heads, random),
            lambda heads: _find_start(heads, _early(model, sample)),
            lambda heads: _find_word(heads, codes),
            _vote,
            lambda heads: _answer(heads, codes, (first, second), code[_END], _early(model, sample)),
        )
        for number, step in enumerate(steps):
            given = _given(model, sample, number)
            step([CircuitHead(model.attentions()[number], each, given) for each in range(SHAPE.num_attention_heads)])
            if number == 0:
                _mark_starts(model, sample)
        model.norm.weight.fill_(0.05)
        model.norm.weight[I_PART] = 1.0


def _embed(model: Llama, signs: Signs, random: torch.Generator) -> Tensor:
    words, size = signs.words, len(signs.words.counts)
    shared = unit(torch.randn(size, CODE, generator=random))[words.form]
    code = unit(0.85 * shared + 0.53 * unit(torch.randn(size, CODE, generator=random)))
    embedding = torch.zeros(size, D_MODEL)
    embedding[:, I_PART] = code
    for told, at in ((words.boundary, E_AT), (words.short, SHORT_AT), (signs.glued, GLUED_AT), (words.asking, ASK_AT)):
        embedding[told, at] = MARK
    embedding[words.boundary & ~signs.full_stop, E_AT] = 2 * MARK
    embedding[:, RARE_AT] = MARK * rarities(words.counts).masked_fill(words.ordinary | words.asking | words.boundary, -0.8)
    embedding[_BOS:, RARE_AT] = -0.8 * MARK
    embedding[:, ONE_AT] = ONE
    embedding[_ASSISTANT, FIRST_AT] = 1.0
    embedding[_BOS] = 0.0
    embedding[_BOS, BOS_AT] = 1.0
    model.embed_tokens.weight.copy_(embedding)
    return code


def _watched(model: Llama, norm: nn.Module, sample: Tensor) -> tuple[Tensor, Tensor]:
    """What a norm is given and what it gives [b, t, d_model] on a sample."""
    seen: list[tuple[Tensor, Tensor]] = []

    def watch(_: nn.Module, given: tuple[Tensor], out: Tensor) -> None:
        seen.append((given[0], out))

    hook = norm.register_forward_hook(watch)
    model(sample, torch.arange(sample.shape[1])[None].expand_as(sample))
    hook.remove()
    return seen[0]


def _given(model: Llama, sample: Tensor, layer: int) -> Given:
    stream, x = _watched(model, model.layers[layer].get_submodule("input_layernorm"), sample)
    return Given(size=sizes(stream), first=x[:, 0].mean(0), x=x)


def _mark_starts(model: Llama, sample: Tensor) -> None:
    """Two neurons: START is E1, but not where the end was a bare full stop (E of 1) and I am GLUED, or it only shortens."""
    layer = model.layers[0]
    size = sizes(_watched(model, layer.get_submodule("post_attention_layernorm"), sample)[0])
    for number, (least, sign) in enumerate(((1.0, 1.0), (2.0, -1.0))):
        told = neuron(layer, number, size, {E1_AT: 2.0, GLUED_AT: -2.0, SHORT2_AT: -2.0, ONE_AT: -least})
        told[START_AT] = sign * MARK / 6


def _look_around(heads: list[CircuitHead], codes: Codes) -> None:
    told = (codes.previous, N_PART), (codes.turn @ codes.entry, B_PART), (BEFORE * codes.turn @ codes.turn @ codes.entry, B_PART)
    for back, (head, (rows, part)) in enumerate(zip(heads[:3], told, strict=True), start=1):
        head.at_distance(BACK, back)
        head.v[: len(rows), I_PART] = rows / head.given.size[I_PART]
        head.o[part, : len(rows)] = torch.eye(len(rows))
        head.v[80, BOS_AT], head.o[F_AT[back - 1], 80] = 1 / head.given.first[BOS_AT], MARK
    for head, at, to in ((heads[0], E_AT, E1_AT), (heads[1], SHORT_AT, SHORT2_AT)):
        head.carries(one(at), one(to), MARK, 81)
    heads[3].at_distance(WINDOW).carries(one(ASK_AT), one(ASKED_AT), 6.0)


def _locate(heads: list[CircuitHead], random: torch.Generator) -> None:
    """Each head weighs the first four tokens against each other: three by the distance to them, the first by nothing."""
    anchors: tuple[dict[int, float], ...] = (
        {BOS_AT: 1.0}, {F_AT[0]: 1.0, BOS_AT: -1.0}, {F_AT[1]: 1.0, F_AT[0]: -1.0}, {F_AT[2]: 1.0, F_AT[1]: -1.0},
    )  # fmt: skip
    waves = [(pair, quarter) for pair in _PLACES for quarter in (0, 1)]
    for number, head in enumerate(heads):
        size = head.given.size
        # All but the first four tokens are out of the question.
        head.prefers(0, {ONE_AT: -_ANCHOR, F_AT[2]: _ANCHOR, BOS_AT: -_ANCHOR})
        for row, anchor in enumerate(anchors):
            for at, sign in anchor.items():
                head.v[row, at] = sign / size[at]
        for anchor, (pair, quarter) in zip(anchors[1:], waves[3 * number :], strict=False):
            head.q_bias[pair] = math.sqrt(_SWING) * head.scale
            for at, sign in anchor.items():
                head.k[pair + quarter * head.half, at] = sign * math.sqrt(_SWING) * head.scale / size[at]
    position = torch.randint(8, REACH_TOKENS, (3000,), generator=random).double()
    weights = torch.cat([_weights(head, position) for head in heads], dim=-1).flatten(0, 1).double()
    angles = [position * heads[0].frequencies[pair] for pair in _PLACES]
    wanted = torch.stack([wave for angle in angles for wave in (angle.cos(), angle.sin())], 1) / math.sqrt(len(_PLACES))
    wanted = wanted.repeat(len(weights) // len(wanted), 1)
    ridge = 1e-9 * len(weights) * torch.eye(weights.shape[1], dtype=torch.float64)
    told = torch.linalg.solve(weights.T @ weights + ridge, weights.T @ wanted).float()
    for number, head in enumerate(heads):
        head.o[PO_PART, :4] = told[4 * number : 4 * number + 4].T


def _weights(head: CircuitHead, position: Tensor) -> Tensor:
    """What a head takes from the first four tokens when it stands at each of the positions [p]: [b, p, 4]."""
    angle = position[:, None] * head.frequencies
    a, b = head.q_bias[: head.half].double(), head.q_bias[head.half :].double()
    query = torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], 1).float()
    near = head.given.x[:, :4] @ head.k.T
    turned = torch.arange(4.0)[:, None] * head.frequencies.float()
    c, d = near[..., : head.half], near[..., head.half :]
    key = torch.cat([c * turned.cos() - d * turned.sin(), d * turned.cos() + c * turned.sin()], -1)
    scores = torch.einsum("pd,bkd->bpk", query, key) / head.scale**2
    return scores.softmax(-1) @ (head.given.x[:, :4] @ head.v[:4].T)


def _early(model: Llama, sample: Tensor) -> Tensor:
    """What PO lacks at the tokens 1, 2 and 3, which do not see all of the first four, as a map [places, d_model] of their marks."""
    stream = _watched(model, model.layers[2].get_submodule("input_layernorm"), sample)[0]
    frequencies = model.frequencies[list(_PLACES)]
    lacking = torch.zeros(PLACE, D_MODEL)
    for position, (own, before) in enumerate(zip(F_AT, (BOS_AT, *F_AT), strict=False), start=1):
        angle = position * frequencies
        wanted = torch.stack([angle.cos(), angle.sin()], 1).flatten() / math.sqrt(len(_PLACES))
        lack = (wanted - stream[:, position, PO_PART].mean(0)) * MARK / stream[:, position, own].mean()
        lacking[:, own] += lack
        lacking[:, before] -= lack
    return lacking


def _find_start(heads: list[CircuitHead], early: Tensor) -> None:
    head = heads[0].at_distance(SENTENCE).carries(PO_PART, PS_PART, 1.0)
    head.v[:PLACE] += early / head.given.size
    head.prefers(0, {START_AT: HERE})
    head.or_nothing(0.0)
    heads[1].at_distance(BACK, 1).carries(one(START_AT), one(START1_AT), MARK).or_nothing(0.0)


def _find_word(heads: list[CircuitHead], codes: Codes) -> None:
    head = heads[0].carries(PS_PART, PV_PART, MARK).carries(one(ONE_AT), one(FOUND_AT), MARK, PLACE)
    head.alike(0, placed((codes.previous, I_PART)), placed((torch.eye(PREVIOUS), N_PART)), MATCH)
    head.or_nothing(NO_MATCH)


def _vote(heads: list[CircuitHead]) -> None:
    head = heads[0].at_distance(QUESTION, 18).carries(PV_PART, PA_PART, MARK)
    head.prefers(0, {RARE_AT: RARE, ASKED_AT: ASK, FOUND_AT: FOUND})
    head.or_nothing(0.0)


def _answer(heads: list[CircuitHead], codes: Codes, marks: tuple[Tensor, Tensor], end: Tensor, early: Tensor) -> None:
    first, second = marks
    begun = torch.zeros(1, D_MODEL)
    begun[0, START1_AT] = 1.0
    asked, sentence, here = (placed((torch.eye(PLACE), part)) for part in (PA_PART, PS_PART, PO_PART))
    size = heads[0].given.size
    for head in (*heads[:2], heads[3]):
        at = 0
        for (query, key), strength in zip(codes.grams(GRAM_SIZES), GRAMS, strict=True):
            at = head.alike(at, query, key, strength)
        at = head.alike(at, asked, sentence, ADDRESS)
        head.alike(at, second, begun, SECOND)
    for head in heads[:2]:
        head.carries(I_PART, I_PART, COPY_TIMES)
    heads[3].v[0, START_AT], heads[3].o[I_PART, 0] = 1 / size[START_AT], END_TIMES * end
    begin = heads[2].carries(I_PART, I_PART, BEGIN_TIMES)
    begin.alike(0, asked, here + early, TO_BEGIN)
    begin.prefers(PLACE, {START_AT: BEGIN})
    for head, nothing, change in (
        (heads[0], NO_COPY, FIRST),
        (heads[1], NO_COPY, FIRST),
        (heads[3], NO_COPY, FIRST),
        (begin, NO_BEGIN + FIRST, -FIRST),
    ):
        row = head.or_nothing(nothing)
        row += change * head.scale * first / size
