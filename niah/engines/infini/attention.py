"""Infini-attention (arXiv 2404.07143): attention inside a segment, mixed per head with a memory of all segments before it.

`InfiniAttention` is one layer's attention, `InfiniState` all that it keeps of the tokens seen. One `forward` serves training
(a whole sequence at once) and streaming (any number of tokens a call, the state carried on); both give the same numbers.

Where the paper is silent or misprints, this is done: local scores are scaled by 1/sqrt(head_dim) (equation 6 prints d_model); where
a query finds nothing in memory (all of the first segment) the head gives its local attention alone, at full size and not times
1 - gate; no epsilon; gates begin at 0. Everything else that deviates is an option of `InfiniConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from niah.engines.infini.config import InfiniConfig
from niah.engines.infini.convolution import ShortConvolution
from niah.engines.infini.gates import WriteGate
from niah.engines.infini.local import attend, rotated, rotations
from niah.engines.infini.memory import FeatureMap, Memory, exact, write_all, write_told
from niah.engines.infini.reading import recalled, told
from niah.engines.infini.sight import Pair, in_sight, last
from niah.engines.infini.state import InfiniState


@dataclass(slots=True)
class Watch:
    """Given to a `forward`, it takes out what happened inside."""

    write_logarithms: Tensor | None = None
    """Of the write gate's strengths, `[b, t, h]`, with their gradient, of a text read at once; None without a write gate."""


class InfiniAttention(nn.Module):
    """One layer's attention. Parameters named `beta` (a gate a head) want their own learning rate and no weight decay.

    `segment_tokens` may be set anew between sequences, for training on several segment lengths.
    """

    def __init__(self, config: InfiniConfig):
        super().__init__()
        self.config = config
        self.segment_tokens = config.segment_tokens
        width, shared_width = config.heads * config.head_dim, (config.kv_heads or config.heads) * config.head_dim
        self.q_proj = nn.Linear(config.d_model, width, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.d_model, shared_width, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.d_model, shared_width, bias=config.value_bias)
        self.o_proj = nn.Linear(width, config.d_model, bias=config.output_bias)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=config.norm_epsilon) if config.query_key_norm else None
        self.k_norm = nn.RMSNorm(config.head_dim, eps=config.norm_epsilon) if config.query_key_norm else None
        remembering = config.remembering
        self.beta = nn.Parameter(torch.tensor(config.beta or (0.0,) * remembering, dtype=torch.get_default_dtype()))
        self.features = FeatureMap(config)
        self.conv = (
            ShortConvolution(config.d_model, streams=3, width=config.conv_width, dilations=config.conv_dilations)
            if config.conv_width
            else None
        )
        self.read_scale = nn.Parameter(torch.ones(remembering, 1, config.head_dim)) if config.read_norm else None
        self.write_gate = WriteGate(config) if config.write_gate else None
        self.read_gate = nn.Linear(config.d_model, remembering) if config.read_gate else None
        self._rotation: tuple[Tensor, Tensor] | None = None

    def memory_share(self) -> Tensor:
        """How much of its output each head with a memory takes from it, `[h]`, 0 to 1."""
        return self.beta.detach().float().sigmoid()

    def start(self, x: Tensor) -> InfiniState:
        """The state in front of a text, for inputs like `x` `[b, t, d_model]`."""
        batch, heads, size = x.shape[0], self.config.remembering, self.config.head_dim
        precision = exact(x.dtype)
        nothing = x.new_zeros(batch, 0, self.config.heads, size)
        return InfiniState(
            memory=Memory(
                x.new_zeros(batch, heads, self.features.count, size, dtype=precision),
                x.new_zeros(batch, heads, self.features.count, dtype=precision),
            ),
            tail=x.new_zeros(batch, self.config.tail_tokens, x.shape[2]),
            keys=nothing,
            values=nothing,
            strengths=None,
            sinks=(nothing, nothing),
            recent=(nothing, nothing),
            tokens=0,
        )

    def forward(
        self, x: Tensor, state: InfiniState | None = None, *, write_weight: Tensor | None = None, watch: Watch | None = None
    ) -> tuple[Tensor, InfiniState]:
        """Equations 5 to 11 over the next tokens of a text, of any number.

        Args:
            x: `[b, t, d_model]`.
            state: what the tokens before left; None at a text's beginning.
            write_weight: `[b, t]`, multiplies what each token adds to M and z. With the linear rule, w is the same as that text w times.
            watch: filled in.

        Returns:
            `[b, t, d_model]` and the state after the last token.

        Raises:
            ValueError: no tokens, or shapes that do not belong to this layer.
        """
        self._check(x)
        state = state or self.start(x)
        inputs = self.conv(x, state.tail) if self.conv else (x, x, x)
        query, key, value = self._query(inputs[0]), self._key(inputs[1]), self._value(inputs[2])
        strength = self._strength(x, write_weight, watch)
        opened = None if self.read_gate is None else self.read_gate(x)
        state = replace(state, tail=state.tail_after(x))
        outputs: list[Tensor] = []
        done = 0
        while done < x.shape[1]:
            piece = slice(done, done + self._next_tokens(state, x.shape[1] - done))
            written, read = (None if each is None else each[:, piece] for each in (strength, opened))
            output, state = self._piece(query[:, piece], (key[:, piece], value[:, piece]), written, read, state)
            outputs.append(output)
            done = piece.stop
        return self.o_proj(torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]), state

    def absorb(self, x: Tensor, state: InfiniState | None = None) -> InfiniState:
        """The state that `forward` would give, without its output: of a text that is only to be remembered, the last layer needs no more.

        ValueError as there.
        """
        self._check(x)
        state = state or self.start(x)
        inputs = self.conv(x, state.tail, first=1) if self.conv else (x, x)
        key, value = self._key(inputs[0]), self._value(inputs[1])
        strength = self._strength(x, None, None)
        state = replace(state, tail=state.tail_after(x))
        done = 0
        while done < x.shape[1]:
            piece = slice(done, done + self._next_tokens(state, x.shape[1] - done))
            *_, state = self._store(key[:, piece], value[:, piece], None if strength is None else strength[:, piece], state)
            done = piece.stop
        return state

    def close_segment(self, state: InfiniState) -> InfiniState:
        """Write an unfinished segment although it is short, so that the next token begins a new one.

        That one has the memory, and with `sink_tokens` or `overlap_tokens` the text's first tokens and all of the closed segment in sight.
        """
        if state.keys.shape[1] and self.config.remembering:
            memory = self._write((state.keys.unsqueeze(1), state.values.unsqueeze(1)), state.strengths, state.memory)[1]
            state = replace(state, memory=memory)
        if not (self.config.sink_tokens or self.config.overlap_tokens):
            return state.new_segment()
        seen = torch.cat([state.recent[0], state.keys], dim=1), torch.cat([state.recent[1], state.values], dim=1)
        return replace(state.new_segment(), sinks=state.sinks, recent=seen)

    def _check(self, x: Tensor) -> None:
        if x.ndim != 3 or not x.shape[1] or x.shape[2] != self.config.d_model:
            raise ValueError(f"the input is {list(x.shape)}: it has to be [batch, 1 or more tokens, {self.config.d_model}]")

    def _query(self, mixed: Tensor) -> Tensor:
        """Of the convolution's output, or the layer's input, `[b, t, d_model]`: `[b, t, h, d]`; so below."""
        query = self._split(self.q_proj(mixed))
        return query if self.q_norm is None else self.q_norm(query)

    def _key(self, mixed: Tensor) -> Tensor:
        key = self._split(self.k_proj(mixed))
        return self._for_all_heads(key if self.k_norm is None else self.k_norm(key))

    def _value(self, mixed: Tensor) -> Tensor:
        return self._for_all_heads(self._split(self.v_proj(mixed)))

    def _split(self, heads: Tensor) -> Tensor:
        return heads.unflatten(-1, (-1, self.config.head_dim))

    def _for_all_heads(self, x: Tensor) -> Tensor:
        sharing = self.config.heads // x.shape[2]
        return x.repeat_interleave(sharing, dim=2) if sharing > 1 else x

    def _next_tokens(self, state: InfiniState, left: int) -> int:
        """How many tokens go next in one piece: what an open segment lacks, else all whole segments, else the beginning of one."""
        opened, size = state.keys.shape[1], self.segment_tokens
        if opened >= size:
            raise ValueError(f"{opened} tokens wait in an unfinished segment: segment_tokens cannot be {size} in the middle of it")
        if opened or left < size:
            return min(left, size - opened)
        first = self.config.sink_tokens and not state.sinks[0].shape[1]
        return size if first or state.recent[0].shape[1] != self.config.overlap_tokens else left - left % size

    def _strength(self, x: Tensor, write_weight: Tensor | None, watch: Watch | None) -> Tensor | None:
        """How strongly each token is written, `[b, t, h]`, or what the write gate makes that of, `[b, t, c]`; None for 1."""
        if write_weight is not None and write_weight.shape != x.shape[:2]:
            raise ValueError(f"write_weight is {list(write_weight.shape)} for an input of {list(x.shape)}")
        if self.write_gate is not None:
            raw = self.write_gate.raw(x, write_weight)
            if watch is not None:
                segments = [self.write_gate.logarithms(each) for each in raw.split(self.segment_tokens, dim=1)]
                watch.write_logarithms = torch.cat(segments, dim=1)
            return raw
        if write_weight is None:
            return None
        return write_weight.to(exact(x.dtype)).unsqueeze(-1).expand(-1, -1, self.config.remembering)

    def _piece(
        self, query: Tensor, pair: Pair, strength: Tensor | None, opened: Tensor | None, state: InfiniState
    ) -> tuple[Tensor, InfiniState]:
        """Tokens `[b, t, h, d]` that are whole segments, or that lie in one: its output `[b, t, h * d]` and the state after it."""
        seen, before, state = self._store(*pair, strength, state)
        query = query.unflatten(1, (seen[0].shape[1], -1))
        heads = self.config.heads - self.config.remembering if self.config.memory_alone else self.config.heads
        local = self._local(query[..., :heads, :], *(each[..., :heads, :] for each in seen))
        if not self.config.remembering:
            return local.transpose(2, 3).flatten(1, 2).flatten(2), state
        opened = None if opened is None else opened.unflatten(1, query.shape[1:3])
        with torch.autocast(query.device.type, enabled=False):
            mixed = self._mix(local, query, before, opened)
        return mixed.flatten(1, 2).flatten(2), state

    def _store(self, key: Tensor, value: Tensor, strength: Tensor | None, state: InfiniState) -> tuple[Pair, Memory, InfiniState]:
        """What `_piece` is about, of the same tokens: the keys and values that their segments have in sight, `[b, s, *, h, d]`, the memory
        that each segment reads, and the state after them.
        """
        tokens = state.tokens + key.shape[1]
        strength = state.strengths_with(self._remembering(key), strength)
        if state.keys.shape[1]:
            key, value = torch.cat([state.keys, key], dim=1), torch.cat([state.values, value], dim=1)
        segments, rest = divmod(key.shape[1], self.segment_tokens)
        own = key.unflatten(1, (segments or 1, -1)), value.unflatten(1, (segments or 1, -1))
        overlap = state.recent[0].shape[1] or self.config.overlap_tokens
        seen = (in_sight(own[0], state.sinks[0], state.recent[0], overlap), in_sight(own[1], state.sinks[1], state.recent[1], overlap))
        if rest:
            before = Memory(*(each.unsqueeze(1) for each in state.memory))
            # Cloned: a view would hold on to the whole call's tensors.
            kept = key.clone(), value.clone(), None if strength is None else strength.clone()
            return seen, before, replace(state, keys=kept[0], values=kept[1], strengths=kept[2], tokens=tokens)
        before, memory = self._write(own, strength, state.memory) if self.config.remembering else (state.memory, state.memory)
        nothing = key.new_zeros(key.shape[0], 0, *key.shape[2:])
        state = replace(state, memory=memory, keys=nothing, values=nothing, strengths=None, tokens=tokens)
        return seen, before, self._handed_on(state, own)

    def _handed_on(self, state: InfiniState, own: Pair) -> InfiniState:
        """The state that the segment after `own` begins with."""
        keys, values = own
        sinks, recent = self.config.sink_tokens, self.config.overlap_tokens
        if sinks and not state.sinks[0].shape[1]:  # a closed segment in front of this one was the text's first
            first = [torch.cat([before, each[:, 0]], dim=1)[:, :sinks].clone() for before, each in zip(state.recent, own, strict=True)]
            state = replace(state, sinks=(first[0], first[1]))
        return replace(state, recent=(last(keys, recent), last(values, recent))) if recent else state

    def _remembering(self, heads: Tensor) -> Tensor:
        """Of `[..., h, d]` the heads that have a memory."""
        return heads[..., self.config.heads - self.config.remembering :, :]

    def _write(self, own: Pair, strength: Tensor | None, memory: Memory) -> tuple[Memory, Memory]:
        """Whole segments `[b, s, n, h, d]` and their `_strength` `[b, s * n, *]` to what each segment reads, and what is there at last."""
        with torch.autocast(own[0].device.type, enabled=False):
            keys, values = (_heads_first(self._remembering(each)) for each in own)
            if strength is not None:
                strength = strength.unflatten(1, (own[0].shape[1], -1))
                strength = (strength if self.write_gate is None else self.write_gate.strengths(strength)).transpose(2, 3)
            if self.config.write_least and strength is not None:
                strength = strength * (strength >= self.config.write_least)
                return write_told(self.features, (keys, values), strength, memory, self.config)
            return write_all(self.features(keys), values, strength, memory, self.config)

    def _mix(self, local: Tensor, query: Tensor, memory: Memory, opened: Tensor | None) -> Tensor:
        """Equation 10, per head: `[b, s, h, m, d]` from within the segment and queries `[b, s, m, h, d]` to `[b, s, m, h, d]`.

        `opened` `[b, s, m, h]` is what the read gate says.
        """
        logit = self.beta.to(exact(query.dtype))[:, None]
        if opened is not None:
            logit = logit + opened.to(logit.dtype).transpose(2, 3)
        share, asked = logit.sigmoid().unsqueeze(-1), _heads_first(self._remembering(query))
        if not self.config.memory_alone:
            stored, known = self._recalled(asked, memory)
            forgetting = self.config.heads - self.config.remembering
            mixed = torch.lerp(local[:, :, forgetting:].to(stored.dtype), stored, share * known).to(local.dtype)
            return (torch.cat([local[:, :, :forgetting], mixed], dim=2) if forgetting else mixed).transpose(2, 3)
        if query.shape[:2] == (1, 1) and opened is not None:
            return torch.cat([local, told(asked, share, lambda some: self._recalled(some, memory)).to(local.dtype)], dim=2).transpose(2, 3)
        stored, known = self._recalled(asked, memory)
        return torch.cat([local, (stored * share * known).to(local.dtype)], dim=2).transpose(2, 3)

    def _recalled(self, query: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        return recalled(self.features(query), memory, self.config, self.read_scale)

    def _local(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Equation 6: queries `[b, s, m, h, d]`, the last m of n keys and values in sight, to `[b, s, h, m, d]`."""
        asked, held = query.shape[2], key.shape[2]
        cosine, sine = self._rotate(query)
        turned = rotated(query, cosine[held - asked : held], sine[held - asked : held]), rotated(key, cosine[:held], sine[:held]), value
        output = attend(*(each.flatten(0, 1).transpose(1, 2) for each in turned))
        return output.unflatten(0, query.shape[:2])

    def _rotate(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines `[n, 1, d / 2]` of every position in sight, kept for the next call."""
        reach = self.config.sink_tokens + self.config.overlap_tokens + 2 * self.segment_tokens
        kept = self._rotation
        if kept is None or kept[0].shape[0] < reach or (kept[0].dtype, kept[0].device) != (like.dtype, like.device):
            kept = self._rotation = rotations(self.config, reach, like)
        return kept


def _heads_first(x: Tensor) -> Tensor:
    """`[b, s, n, h, d]` to `[b, s, h, n, d]` in memory's precision, in one copy."""
    return x.transpose(2, 3).to(exact(x.dtype), memory_format=torch.contiguous_format)
