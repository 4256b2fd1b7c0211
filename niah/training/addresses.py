"""Structured initial weights of `full`: a retrieval circuit in which every sentence has an address, that training then refines.

A model of this size is expected to need tens of millions of tokens before it copies at all from random weights. So the stream
starts out divided into parts, and the first heads start out with one task each:

    I  who am I: a unit code of the token, alike for forms of one word   N  the code of the token before me
    B  those of the two before that, a rotation a step                   E, E1  I end a sentence; the token before me does
    PO  where I stand: cosines and sines of my position                  PS  where my sentence begins
    PV  where the sentences begin that my word stands in                 PA  where the sentence begins that is asked for
    OF  how far I am behind the beginning of my sentence
    F  I am among the text's first two, three, four tokens               FOUND  my word stands elsewhere too
    SHORT, SHORT2  a full stop behind me, or behind the token two before me, shortens a word
    GLUED  I go on with what stands before me: no sentence begins here   START, START1  a sentence begins with me, began before me
           (START is where an answer begins, too: its tokens know how far they are)
    ASK, ASKED  I ask; somebody near me asks                             RARE  how rare my word is
    FIRST  an answer begins behind me

    layer 0  three heads look back 1, 2 and 3 tokens (N, B, E1, SHORT2, F), one averages a window (ASKED); four neurons for START
    layer 1  four heads compare the distances to the first four tokens (PO): rotary embeddings tell relative places alone
    layer 2  one head looks at the beginning of its sentence (PS); four neurons multiply PO and PS (OF)
    layer 3  one head looks behind its own word elsewhere, at all such places alike (the mean of their PS: PV)
    layer 4  one head averages PV over the question's rare words that were found (PA). Words that stand in many sentences point
             nowhere, those of one sentence point to one address: the sum is a vote
    layer 5  one head keeps the PA of where the answer began: a vote that is taken anew at each token drifts towards the question
    layer 6  one head begins the answer with the token at the address; two look for the token behind the last two or three of the
             answer, as far from its sentence's beginning, in the sentence of that address, and copy it; one ends the answer
             where a sentence begins

The first token of all holds no code: a head that finds nothing looks there and adds nothing. Everything else starts small and
random. Nothing in here knows a needle, a template or a text but token frequencies, and the cue.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
    as_saved,
    one,
    placed,
    sizes,
    summed,
    threshold,
)
from niah.training.positions import LOCATED, early, locate, offsets, tell_offsets, watched
from niah.training.structure import Vocabulary, rarities, unit

SHAPE = LlamaShape(
    hidden_size=D_MODEL, intermediate_size=16, num_hidden_layers=7, num_attention_heads=4, num_key_value_heads=4, head_dim=96,
    rope_theta=RATIO**48,
)  # fmt: skip
_BOS, _ASSISTANT, _END = 8184, 8189, 8190
BACK = {0: 10.0, 1: 10.0, 2: 6.0} | dict.fromkeys(range(3, 10), 4.0)
WINDOW = {3: 3.0, 4: 5.0} | dict.fromkeys(range(5, 10), 4.0)
SENTENCE = {2: 2.0, 3: 8.0, 5: 120.0} | dict.fromkeys(range(6, 11), 60.0)
QUESTION = {3: 9.0, 4: 24.0, 5: 16.0} | dict.fromkeys(range(6, 11), 12.0)
"""Strengths of nearness by pair: of a look back, a window of 40 tokens, a sentence, a question. Slow pairs keep far tokens out."""
HERE, MATCH, NO_MATCH, RARE, FOUND, ASK = 160.0, 80.0, 52.0, 5.5, 12.0, 24.0
GRAM_SIZES, GRAMS = (26, 28), (40.0, 50.0)
ANSWERS = 6.0
KEPT = 3.0
ADDRESS_OF_END = 18.0
STEEP, STEEP_TOKENS = {4: 60.0}, 50.0
OFFSET = 25.0
ADDRESS, NO_COPY, BEGIN, NO_BEGIN, FIRST, SECOND = 60.0, 45.0, 42.0, 45.0, 400.0, 25.0
TO_BEGIN = 100.0
COPY_TIMES, BEGIN_TIMES, END_TIMES = 10.0, 8.0, 40.0


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
        as_saved(model.embed_tokens.weight)
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
            lambda heads: locate(heads, random),
            lambda heads: _find_start(heads, early(model, sample)),
            lambda heads: _find_word(heads, codes),
            lambda heads: vote(heads[0]),
            lambda heads: keep(heads[0]),
            lambda heads: _answer(heads, codes, (first, second), code[_END], early(model, sample)),
        )
        for number, step in enumerate(steps):
            given = _given(model, sample, number)
            step([CircuitHead(model.attentions()[number], each, given) for each in range(SHAPE.num_attention_heads)])
            if number == 0:
                _mark_starts(model, sample, first)
            if number == LOCATED:
                tell_offsets(model, sample)
            as_saved(*model.layers[number].parameters())
        model.norm.weight.fill_(0.05)
        model.norm.weight[I_PART] = 1.0
        as_saved(model.norm.weight)


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
    embedding[_BOS + 1 :, GLUED_AT] = 2 * MARK
    embedding[_BOS:, RARE_AT] = -0.8 * MARK
    embedding[:, ONE_AT] = ONE
    embedding[_ASSISTANT, FIRST_AT], embedding[_ASSISTANT, ASK_AT] = 1.0, -ANSWERS * MARK
    embedding[_BOS] = 0.0
    embedding[_BOS, BOS_AT] = 1.0
    model.embed_tokens.weight.copy_(embedding)
    return code


def _given(model: Llama, sample: Tensor, layer: int) -> Given:
    stream, x = watched(model, model.layers[layer].get_submodule("input_layernorm"), sample)
    return Given(size=sizes(stream), first=x[:, 0].mean(0), x=x)


def _mark_starts(model: Llama, sample: Tensor, cue: Tensor) -> None:
    """START is E1, but not where the end was a bare full stop (E of 1) and I am GLUED, or it only shortens; and where an answer begins."""
    layer = model.layers[0]
    size = sizes(watched(model, layer.get_submodule("post_attention_layernorm"), sample)[0])
    threshold(layer, 0, size, START_AT, summed(size, {E1_AT: 4.0, GLUED_AT: -4.0, SHORT2_AT: -4.0, ONE_AT: -1.6}))
    threshold(layer, 2, size, START_AT, 4 * cue / size + summed(size, {ONE_AT: -2.0}))


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


def _looks_at_start(head: CircuitHead) -> CircuitHead:
    """At the latest START: near ones are told apart by a slope, far ones by what is slow."""
    head.at_distance(SENTENCE).at_distance(STEEP, -STEEP_TOKENS).prefers(0, {START_AT: HERE})
    return head


def _find_start(heads: list[CircuitHead], early: Tensor) -> None:
    head = _looks_at_start(heads[0]).carries(PO_PART, PS_PART, 1.0)
    head.v[:PLACE] += early / head.given.size
    head.or_nothing(0.0)
    heads[1].at_distance(BACK, 1).carries(one(START_AT), one(START1_AT), MARK).or_nothing(0.0)


def _find_word(heads: list[CircuitHead], codes: Codes) -> None:
    head = heads[0].carries(PS_PART, PV_PART, MARK).carries(one(ONE_AT), one(FOUND_AT), MARK, PLACE)
    head.alike(0, placed((codes.previous, I_PART)), placed((torch.eye(PREVIOUS), N_PART)), MATCH)
    head.or_nothing(NO_MATCH)


def vote(head: CircuitHead) -> None:
    head.at_distance(QUESTION, 18).carries(PV_PART, PA_PART, MARK)
    head.prefers(0, {RARE_AT: RARE, ASKED_AT: ASK, FOUND_AT: FOUND})
    head.or_nothing(0.0)


def keep(head: CircuitHead) -> None:
    """What was voted for where my sentence begins: the answer that is being given begins where its question ends."""
    _looks_at_start(head).carries(PA_PART, PA_PART, KEPT * MARK)
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
        at = head.alike(at, asked, sentence, ADDRESS_OF_END if head is heads[3] else ADDRESS)
        at = head.alike(at, second, begun, SECOND)
        if head is not heads[3]:
            head.alike(at, offsets(), offsets(), OFFSET)
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
