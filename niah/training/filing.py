"""From the `full` reader to the `infini` reader: its heads as they are, and heads that file in memory and ask of it.

Within sight (a segment, the end of the one before, the text's first tokens) the infini reader reads as the full one does. What goes out
of sight is filed by sentences, once a segment is over: with a question in front of the text those that it asks for, ever more strongly
the more of its rare words they hold; without one what is new, so that text which repeats itself is filed once. Parts of the stream,
beside those of parts.py:

    QMARK  I end a question                 QBEHIND  a question has just ended       USER, NEARSTART  the user begins, or just has
    QUEST  I stand where the text would begin with a question    QEND  it did, and ends here
    HIT    how rare my word is, if that question holds it                SEEN  these three tokens stood here before
    TOLD   HIT, of words that are not common                             NOVEL  I am not SEEN, and there is no such question
    ASKED1  there is such a question        OLD    how much of the text stood there before    FILE  the memory is to answer
    PV2, PM    as PV and PA, of what was read from memory                KNOWN  the memory knows my word
    BEFORE1, BEFORE2  an answer begins behind me, or goes on with its second token

    layer 0  a head for QBEHIND             layer 1  a head for NEARSTART; neurons make QUEST and QEND of them
    layer 3  heads for HIT, SEEN and ASKED1
    layer 4  a head for OLD; neurons make FILE of it and ASKED1
    layer 4  memory: a word -> where the sentence begins that it first stands in (PV2), or next to nothing
    layer 5  the full reader's head that keeps PA, and one that votes over PV2 as layer 4's does over PV (PM); memory: where the
             sentence begins that is asked for (PM); neurons make BEFORE1 and BEFORE2
    layer 6  memory: where a sentence begins -> its first token; the same and the last three tokens -> the next one, or the end

Two sentences of one address lie in different segments: that they are told apart is left to their words and to how strongly they are
filed. Nothing in here knows a needle, a template or a text; the full reader's weights hold what is known of tokens.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from niah.engines.infini.attention import InfiniAttention
from niah.engines.infini.model import InfiniModel, Layer
from niah.training.addresses import FIRST, GRAM_SIZES, GRAMS, SECOND, keep
from niah.training.episodes import USER
from niah.training.parts import (
    ASKED_AT,
    BOS_AT,
    CODE,
    E_AT,
    F_AT,
    FIRST_AT,
    FOUND_AT,
    GLUED_AT,
    HEAD_DIM,
    I_PART,
    MARK,
    N_PART,
    ONE_AT,
    PLACE,
    PS_PART,
    RARE_AT,
    START1_AT,
    START_AT,
    CircuitHead,
    Codes,
    Given,
    neuron,
    one,
    placed,
    sizes,
    summed,
    threshold,
)
from niah.training.parts import D_MODEL as FULL_D_MODEL
from niah.training.structure import orthogonal

QMARK_AT, USER_AT, QBEHIND_AT, NEARSTART_AT, QUEST_AT, SEEN_AT = range(288, 294)
ASKED1_AT, FILE_AT, QEND_AT, TOLD_AT, NOVEL_AT = range(294, 299)
OLD_AT, HIT_AT, KNOWN_AT, BEFORE1_AT, BEFORE2_AT = QMARK_AT, USER_AT, NEARSTART_AT, QUEST_AT, QEND_AT
"""In places that nothing looks at any more."""
PV2_PART, PM_PART = slice(299, 311), slice(311, 323)
D_MODEL, MLP, SEGMENT = 323, 4, 2048
WORDS = 4
"""The layer that files words."""
ASKING, ASKING_DIM = 5, 48
"""The layer whose heads carry little, and how large they are."""
LOCAL_HEADS, MEMORY_HEADS = (5, 5, 2, 4, 2, 2, 3), (0, 0, 0, 0, 1, 1, 2)
SHARED_HEADS = ((0, 1, 2, 3), (0, 1, 2, 3), (0, 1), (0,), (0,), (), (0, 2, 3))
"""A layer's heads without and with a memory; the first ones are these of the full reader's."""
_SOURCES = (0, 1, 2, 3, 4, None, 6)
_END = 8190
_NEURONS = {0: 4, 2: 4}
"""Of the full reader's layers: how many neurons work there."""
GRAM_DIMENSIONS = sum(GRAM_SIZES)
"""Of the full reader's first copying head: those that compare the last two tokens. Behind them come an address and a mark."""
LATELY, LEAST = {4: 60.0, 5: 60.0, 6: 40.0}, 100.0
"""Strengths of nearness by pair, and what they add up to a hundred tokens away."""
MARKED, NO_GRAM, SEEN_SIZES, COPIED_SIZES = 80.0, 63.5, (40, 33), (46, 38)
SAME_WORD, SAME_BEFORE, ASKED_WORD, NO_WORD, MORE_OF_PIECES = 80.0, 45.0, 120.0, 170.0, 44.0
"""A word of the question counts alone, a piece of a word with what stands before it."""
ANSWERS_LEAST = 2.0
FLOOR, KNOWN = 0.3, 40.0
"""What a word's memory is measured by, and how much more a word counts that it knows."""
LOUD = 2.5
"""How much larger the address of a word in memory is told than of one in sight: what is common to all is not in it."""
COMMON = 0.25
"""No word of at most this rarity counts."""
NEURONS = {
    1: (
        ({NEARSTART_AT: 4.0, QBEHIND_AT: -4.0, ONE_AT: -2.0}, QUEST_AT),
        ({NEARSTART_AT: 4.0, QMARK_AT: 4.0, ONE_AT: -6.0}, QEND_AT),
    ),
    3: (
        ({HIT_AT: 4.0, ONE_AT: -4.0 * COMMON - 8.0, ASKED1_AT: 8.0}, TOLD_AT),
        ({SEEN_AT: -4.0, ASKED1_AT: -4.0, ONE_AT: 2.0}, NOVEL_AT),
    ),
    4: (({OLD_AT: 20.0, ONE_AT: -15.0}, FILE_AT), ({ASKED1_AT: 2.0, ONE_AT: -1.0}, FILE_AT)),
}
"""By layer: marks that are made of others, by `parts.neuron`."""
SILENT = 300.0
"""By how much the full reader's last heads are silenced where the memory is to answer."""
SCENE, SCENE_OLD = 0.1, 0.75
"""A text is filed whose tokens stood before in such a share, or with a question in front."""
_SHUT, _OPEN, _AGAIN = -60.0, 20.0, -32.0
NEW, NEW_TOKENS, FILED, HELD = 8.0, 2.5, 1.5, 40.0
"""A sentence is filed if so many of its tokens are new; e to FILED times the rarity of its words that are asked for as
strongly."""
NOVEL = {START_AT: -NEW * NEW_TOKENS, NOVEL_AT: NEW / 2}
HELD_WORDS = {TOLD_AT: HELD}
TOLD = {TOLD_AT: FILED}
LENGTH = 14.0
"""Of the memories' keys and queries."""
PLACES = (0.65, 0.25, 0.04, 0.03, 0.02, 0.01)
"""How much the pairs of an address, fastest first, count where a sentence begins."""
RARE, ASK, QUESTION = 15.0, 24.0, {3: 9.0, 4: 24.0, 5: 16.0} | dict.fromkeys(range(6, 11), 12.0)
ADDRESS, EARLIER, GRAM_LENGTH = 12.0, 1.2, 34.0
"""Strength of an address beside the copying head's comparisons, how much more those before the last token weigh than there, and the
length of such keys."""
BEGIN_TIMES, COPY_TIMES, END_TIMES, END_ALONE = 10.0, 20.0, 2.0, 5.0


def graft(model: InfiniModel, full: Mapping[str, Tensor], question: Tensor, sample: Tensor) -> None:
    """Fills `model` (in place) from the weights of the full reader, named as `niah.training.llama.Llama` names them.

    `question` [vocabulary]: which tokens end a question. On `sample` [b, t], token ids of texts no longer than a segment, sizes are
    measured.
    """
    steps: Sequence[Callable[[list[CircuitHead], InfiniModel], None]] = (
        _look_around, _locate, lambda _, __: None, lambda heads, _: _compare(heads, Codes.of(full)), _file_words, _ask,
        lambda heads, model: _file_sentences(heads, model, Codes.of(full)),
    )  # fmt: skip
    with torch.no_grad():
        _take(model, full)
        model.embed.weight[question, QMARK_AT] = MARK
        model.embed.weight[USER, USER_AT] = MARK
        stream = model.embed(sample)
        for number, step in enumerate(steps):
            layer, kept = cast(Layer, model.layers[number]), len(SHARED_HEADS[number])
            attention, given = layer.attention, _given(layer.input_norm, stream)
            dim, heads = attention.config.head_dim, range(attention.config.heads)
            step([CircuitHead(attention, each, given, dim=dim, kept=each < kept) for each in heads], model)
            stream = stream + attention(layer.input_norm(stream))[0]
            size = _given(layer.mlp_norm, stream).size
            for each, (places, to) in enumerate(NEURONS.get(number, ())):
                neuron(layer, each, size, places)[to] = MARK / 6
            if number == ASKING:
                _mark_answers(model, size)
            if number == len(steps) - 1:
                _end(model, size)
            stream = stream + layer.mlp(layer.mlp_norm(stream))


def _take(model: InfiniModel, full: Mapping[str, Tensor]) -> None:
    """The full reader's weights, in front of nothing: heads, neurons and parts of the stream of its own are zero."""
    own, old = dict(model.named_parameters()), slice(FULL_D_MODEL)
    for parameter in own.values():
        parameter.zero_()
    own["embed.weight"][:, old] = full["embed_tokens.weight"]
    # The longer stream has the same size, so its mean square is smaller.
    smaller = math.sqrt(FULL_D_MODEL / D_MODEL)
    own["norm.weight"].fill_(0.05 * smaller)
    own["norm.weight"][old] = full["norm.weight"] * smaller
    for layer, source in enumerate(_SOURCES):
        to, given = f"layers.{layer}.", f"layers.{source}."
        own[f"{to}input_norm.weight"].fill_(smaller)
        own[f"{to}mlp_norm.weight"].fill_(smaller)
        for head, theirs in enumerate(SHARED_HEADS[layer]):
            rows, of = (slice(number * HEAD_DIM, (number + 1) * HEAD_DIM) for number in (head, theirs))
            for part in ("q", "k", "v"):
                own[f"{to}attention.{part}_proj.weight"][rows, old] = full[f"{given}self_attn.{part}_proj.weight"][of]
            for part in ("q", "k"):
                own[f"{to}attention.{part}_proj.bias"][rows] = full[f"{given}self_attn.{part}_proj.bias"][of]
            own[f"{to}attention.o_proj.weight"][old, rows] = full[f"{given}self_attn.o_proj.weight"][:, of]
    for layer, count in _NEURONS.items():
        for part in ("gate", "up"):
            own[f"layers.{layer}.mlp.{part}_proj.weight"][:count, old] = full[f"layers.{layer}.mlp.{part}_proj.weight"][:count]
        own[f"layers.{layer}.mlp.down_proj.weight"][old, :count] = full[f"layers.{layer}.mlp.down_proj.weight"][:, :count]


def _given(norm: nn.RMSNorm, stream: Tensor) -> Given:
    """What stands behind a norm that the stream [b, t, d_model] goes through."""
    x = norm(stream)
    return Given(size=sizes(stream) * norm.weight, first=x[:, 0].mean(0), x=x)


def _lately(head: CircuitHead, at: int, to: int) -> None:
    """The mark `to`: one of the last hundred tokens has the mark `at`."""
    head.at_distance(LATELY).carries(one(ONE_AT), one(to), MARK)
    head.prefers(0, {at: MARKED})
    head.or_nothing(MARKED + LEAST)
    pairs = list(LATELY)
    head.k[pairs, BOS_AT] -= head.k_bias[pairs] / head.given.first[BOS_AT]  # nothing is as near everywhere


def _look_around(heads: list[CircuitHead], _: InfiniModel) -> None:
    _lately(heads[4], QMARK_AT, QBEHIND_AT)


def _locate(heads: list[CircuitHead], _: InfiniModel) -> None:
    _lately(heads[4], USER_AT, NEARSTART_AT)


def _compare(heads: list[CircuitHead], codes: Codes) -> None:
    _, hit, seen, before = heads
    random = torch.Generator().manual_seed(0)
    at = 0
    for count, part, strength in ((44, I_PART, SAME_WORD), (27, N_PART, SAME_BEFORE)):
        size = part.stop - part.start
        word = placed((orthogonal(count, size, random) * math.sqrt(size / count), part), width=D_MODEL)
        at = hit.alike(at, word, word, strength)
    hit.prefers(at, {QUEST_AT: ASKED_WORD / 2})
    hit.carries(one(RARE_AT), one(HIT_AT), MARK)
    hit.or_nothing(NO_WORD)[GLUED_AT] += MORE_OF_PIECES * hit.scale / hit.given.size[GLUED_AT]
    before.prefers(0, {QEND_AT: MARKED / 2})
    before.carries(one(ONE_AT), one(ASKED1_AT), MARK).or_nothing(MARKED / 2)
    at = 0
    for (query, key), strength in zip(codes.grams(SEEN_SIZES), GRAMS, strict=True):
        at = seen.alike(at, _wide(query), _wide(key), strength)
    seen.carries(one(ONE_AT), one(SEEN_AT), MARK).or_nothing(NO_GRAM)


def _wide(rows: Tensor) -> Tensor:
    """Rows over the full reader's stream as rows over the longer one."""
    return torch.nn.functional.pad(rows, (0, D_MODEL - FULL_D_MODEL))


class _Filing:
    """The gates of a layer with a memory."""

    def __init__(self, attention: InfiniAttention, size: Tensor):
        assert attention.write_gate is not None and attention.read_gate is not None
        self._write, self._read, self._size = attention.write_gate, attention.read_gate, size
        self._heads = attention.config.remembering

    def writes(self, head: int, begins: int, own: Mapping[int, float], whole: Mapping[int, float], weights: Mapping[int, float]) -> None:
        self._write.bias[4 * self._heads + head] = -0.5
        own = {**own, F_AT[2]: _SHUT, BOS_AT: _SHUT}  # these have no proper address
        scene = {SEEN_AT: SCENE, ASKED1_AT: SCENE, ONE_AT: -SCENE * SCENE_OLD}
        for kind, places in enumerate((own, whole, weights, scene, {begins: 1.0})):
            self._write.weight[kind * self._heads + head] = summed(self._size, places)

    def reads(self, head: int, places: Mapping[int, float]) -> None:
        self._read.weight[head] = summed(self._size, places)


def _file_words(heads: list[CircuitHead], model: InfiniModel) -> None:
    _, old, word = heads
    old.carries(one(SEEN_AT), one(OLD_AT), MARK)
    size = word.given.size
    word.q[:CODE, I_PART] = word.k[:CODE, I_PART] = torch.eye(CODE) * LENGTH / size[I_PART]
    word.carries(PS_PART, PV2_PART, LOUD * MARK).carries(one(ONE_AT), one(KNOWN_AT), MARK, PLACE)
    filing = _Filing(model.attentions()[4], size)
    filing.writes(0, START_AT, {ONE_AT: _OPEN, SEEN_AT: _SHUT, FOUND_AT: _AGAIN}, NOVEL, {})
    filing.reads(0, {ONE_AT: -_OPEN, ASKED_AT: 20 * _OPEN})


def _ask(heads: list[CircuitHead], model: InfiniModel) -> None:
    kept, vote, asked = heads
    keep(kept)
    size = vote.given.size
    vote.at_distance(QUESTION, 18).carries(PV2_PART, PM_PART, MARK)
    vote.prefers(0, {RARE_AT: RARE, ASKED_AT: ASK, KNOWN_AT: KNOWN})
    vote.or_nothing(0.0)
    asked.q_bias[0] = asked.k_bias[0] = LENGTH
    asked.carries(PS_PART, PM_PART, MARK)
    filing = _Filing(model.attentions()[5], size)
    filing.writes(0, START_AT, {ONE_AT: _SHUT, START_AT: _OPEN - _SHUT}, {START_AT: -HELD / 2} | HELD_WORDS, TOLD)
    filing.reads(0, {ONE_AT: _OPEN})


def _file_sentences(heads: list[CircuitHead], model: InfiniModel, codes: Codes) -> None:
    *theirs, begin, gram = heads
    size = begin.given.size
    theirs[0].o *= 2.0  # the full reader has two of these
    for head in theirs:
        head.q[head.free[-1], FILE_AT] += SILENT * head.scale / size[FILE_AT]
    _begin(begin)
    _copy(gram, codes, model.embed.weight[_END, I_PART])
    filing = _Filing(model.attentions()[6], size)
    starts = {ONE_AT: _SHUT, START_AT: _OPEN - _SHUT, START1_AT: _OPEN - _SHUT}
    filing.writes(0, START_AT, starts, NOVEL | HELD_WORDS, TOLD)
    # What stands in front of a sentence's first token ends an answer, and is filed with the sentence before.
    new = {START1_AT: NOVEL[START_AT], NOVEL_AT: NOVEL[NOVEL_AT]}
    filing.writes(1, START1_AT, {ONE_AT: _OPEN}, new | HELD_WORDS, TOLD)
    filing.reads(0, {ONE_AT: -_OPEN, BEFORE1_AT: 2 * _OPEN, BEFORE2_AT: 2 * _OPEN})
    filing.reads(1, {ONE_AT: _OPEN, BEFORE1_AT: -2 * _OPEN, BEFORE2_AT: -2 * _OPEN})


def _mark_answers(model: InfiniModel, size: Tensor) -> None:
    """Marks tokens behind which an answer begins, and behind which it goes on with a second token, as the full reader's heads tell them."""
    attention, layer = model.attentions()[-1], cast(Layer, model.layers[ASKING])
    copying, beginning = (CircuitHead(attention, each, Given(size=size, first=size, x=size), kept=True) for each in (0, 1))
    first = -beginning.q[beginning.free[-1]] / (FIRST * beginning.scale)
    first[ONE_AT] = 0.0
    second = copying.q[copying.free[GRAM_DIMENSIONS + PLACE]] / (math.sqrt(SECOND) * copying.scale)
    for number, (row, to) in enumerate(((first, BEFORE1_AT), (second, BEFORE2_AT))):
        threshold(layer, 2 * number, size, to, 4 * row + summed(size, {ONE_AT: -ANSWERS_LEAST}))


def _place_strengths() -> Tensor:
    return torch.diag(torch.tensor(PLACES).sqrt().repeat_interleave(2) * math.sqrt(len(PLACES)))


def _begin(head: CircuitHead) -> None:
    """A sentence's first and second token have one address, and another mark."""
    size = head.given.size
    head.q[:PLACE, PM_PART], head.k[:PLACE, PS_PART] = (_place_strengths() * LENGTH / size[part] for part in (PM_PART, PS_PART))
    head.q[PLACE, BEFORE1_AT], head.q[PLACE + 1, BEFORE2_AT] = LENGTH / size[BEFORE1_AT], LENGTH / size[BEFORE2_AT]
    head.k[PLACE, START_AT], head.k[PLACE + 1, START1_AT] = LENGTH / size[START_AT], LENGTH / size[START1_AT]
    head.carries(I_PART, I_PART, BEGIN_TIMES)


def _copy(head: CircuitHead, codes: Codes, end: Tensor) -> None:
    """As a copying head of the full reader compares the last tokens, in more dimensions, and by an address."""
    size, at = head.given.size, 0
    for (query, key), strength, times in zip(codes.grams(COPIED_SIZES), GRAMS, (1.0, EARLIER), strict=True):
        rows = slice(at, at + len(query))
        for to, part in ((head.q, query), (head.k, key)):
            to[rows] = _wide(part) * math.sqrt(strength) * times * head.scale / size
        at = rows.stop
    for to, part in ((head.q, PM_PART), (head.k, PS_PART)):
        to[at : at + PLACE, part] = _place_strengths() * math.sqrt(ADDRESS) * head.scale / size[part]
        to.mul_(LENGTH / GRAM_LENGTH)
    head.carries(I_PART, I_PART, COPY_TIMES)
    head.v[:, START_AT] += END_TIMES * end / size[START_AT]


def _end(model: InfiniModel, size: Tensor) -> None:
    """Where the memory answers and knows of nothing behind a full stop, the answer ends."""
    told = neuron(model.layers[-1], 0, size, {E_AT: 2.0, ONE_AT: -1.0, FIRST_AT: -10.0}, times=FILE_AT)
    told[I_PART] = END_ALONE / 6 * model.embed.weight[_END, I_PART]
