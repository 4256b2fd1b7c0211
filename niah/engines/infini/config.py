"""The shape and the options of one layer's Infini-attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Rule = Literal["linear", "delta"]
FeatureKind = Literal["elu1", "elu1_biased", "dpfp", "softmax"]


@dataclass(frozen=True, kw_only=True, slots=True)
class InfiniConfig:
    """One layer's attention. As it stands with only the required fields, it is the paper's; each option below deviates from it.

    Raises:
        ValueError: numbers or names that make no layer.
    """

    d_model: int
    heads: int
    head_dim: int
    segment_tokens: int
    rope_theta: float = 10_000.0
    """Base of the rotation on the local path; its positions restart in each segment, the memory path has none."""
    rule: Rule = "linear"
    """How the memory is written: `linear` (equation 8, parallel over segments) or `delta` (equation 9, a loop)."""
    beta: tuple[float, ...] = ()
    """Where the gates begin, one a head; empty for zeros. A head takes sigmoid(beta) of its output from memory."""

    memory_heads: int = -1
    """How many heads, the last ones, have a memory; the others attend locally and have no gate. -1: all, 0: none."""
    sink_tokens: int = 0
    """The text's first tokens that stay in sight of every segment (attention sinks, arXiv 2309.17453)."""
    overlap_tokens: int = 0
    """How many tokens of the segment before stay in sight (as in Transformer-XL, arXiv 1901.02860): no border cuts a sentence."""
    kv_heads: int = 0
    """Heads of k and v, each shared by heads / kv_heads of q (grouped queries); 0 for as many as of q."""
    attention_bias: bool = False
    """q and k have biases."""
    value_bias: bool = False
    """v has one."""
    output_bias: bool = False
    """The projection of the heads' outputs has one."""
    query_key_norm: bool = False
    """RMS norm with a learned scale on each head of q and k, before the rotation and before memory."""
    norm_epsilon: float = 1e-6
    """Of that norm."""
    rope_frequencies: tuple[float, ...] = ()
    """Radians a token for each pair of dimensions, where they do not follow from rope_theta."""
    conv_width: int = 0
    """Taps of a causal depthwise convolution, added to the inputs of q, k and v; 0 for none. It reaches over segment borders."""
    conv_dilations: tuple[int, ...] = (1,)
    """One convolution for each, summed; a tap reaches up to (conv_width - 1) * dilation tokens back."""
    memory_alone: bool = False
    """The heads with a memory do not attend locally: what they give is what they read, times their share of it."""
    read_gate: bool = False
    """A head's share of memory depends on the layer's input x too: sigmoid(beta + w x + b)."""
    corrected_normaliser: bool = False
    """For `delta`: a known key is not counted again in z, so that a new value replaces the old one."""
    read_norm: bool = False
    """RMS norm with a learned scale on what each head reads from memory, whose size falls with the text's length."""
    read_centred: bool = False
    """What is read is told apart from the mean of all that is written, by strength; features that sum to the same for all keys know it."""
    read_floor: float = 0.0
    """Added to the normaliser of equation 7, the epsilon that the paper leaves open: a query that hardly anything answers reads little."""
    write_gate: bool = False
    """Each head learns from the layer's input how strongly a token is written, 0 to 1."""
    write_gate_bias: float = 0.0
    """The write gate's first logit."""
    write_pool: bool = False
    """The write gate weighs runs of tokens as a whole (`gates.WriteGate`)."""
    write_least: float = 0.0
    """A token that the write gate says is written more faintly is not written at all."""
    feature_map: FeatureKind = "elu1"
    feature_count: int = 0
    """Features of `softmax`; 0 for four times head_dim."""
    feature_groups: int = 1
    """Features of `softmax` are so many softmaxes side by side: keys that are nearly alike share some for certain, not all or none."""
    feature_frozen: bool = True
    """The projection of `softmax` is not trained."""
    feature_seed: int = 0
    """What the projection of `softmax` is drawn from. A frozen one is drawn anew from it wherever a model is made, and not saved."""
    feature_scale: float = 1.0
    """First scale of `elu1_biased`, and of the projection of `softmax`."""
    feature_bias: float = 0.0
    """First bias of `elu1_biased`."""
    dpfp_nu: int = 3
    """Order of `dpfp`, which gives 2 * dpfp_nu * head_dim features."""

    def __post_init__(self) -> None:
        for name in ("d_model", "heads", "head_dim", "segment_tokens", "dpfp_nu"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it has to be 1 or more")
        self._check_sight()
        if not -1 <= self.memory_heads <= self.heads:
            raise ValueError(f"memory_heads is {self.memory_heads}: it has to be 0 to heads ({self.heads}), or -1 for all")
        if self.kv_heads and (self.kv_heads < 0 or self.heads % self.kv_heads):
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} of k and v")
        if len(self.rope_frequencies) not in (0, self.head_dim // 2):
            raise ValueError(f"rope_frequencies has {len(self.rope_frequencies)} values for a head_dim of {self.head_dim}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}: rotation needs an even number")
        if self.rule not in get_args(Rule):
            raise ValueError(f"no rule {self.rule!r}: there are {', '.join(get_args(Rule))}")
        if self.feature_map not in get_args(FeatureKind):
            raise ValueError(f"no feature map {self.feature_map!r}: there are {', '.join(get_args(FeatureKind))}")
        if len(self.beta) not in (0, self.remembering):
            raise ValueError(f"beta has {len(self.beta)} values for {self.remembering} heads with a memory")
        if self.corrected_normaliser and self.rule != "delta":
            raise ValueError("corrected_normaliser belongs to the delta rule")
        self._check_memory()
        self._check_features()

    def _check_memory(self) -> None:
        if self.read_floor < 0:
            raise ValueError(f"read_floor is {self.read_floor}: it has to be 0 or more")
        if self.memory_alone and self.remembering in (0, self.heads):
            raise ValueError("memory_alone belongs to a layer some of whose heads have a memory, and some do not")
        if self.read_centred and (self.feature_map != "softmax" or self.rule != "linear"):
            raise ValueError("read_centred belongs to the features softmax and to the linear rule")
        if self.write_pool and not self.write_gate:
            raise ValueError("write_pool belongs to a write gate")

    def _check_features(self) -> None:
        if self.conv_width < 0 or self.feature_count < 0 or not self.conv_dilations or min(self.conv_dilations) < 1:
            raise ValueError("conv_width and feature_count are 0 or more, conv_dilations are 1 or more")
        if self.feature_groups < 1 or (self.feature_count or 4 * self.head_dim) % self.feature_groups:
            raise ValueError(f"feature_groups is {self.feature_groups}: it has to divide the number of features")

    def _check_sight(self) -> None:
        if min(self.sink_tokens, self.overlap_tokens) < 0:
            raise ValueError("sink_tokens and overlap_tokens are 0 or more")
        if self.sink_tokens + self.overlap_tokens > self.segment_tokens:
            told = f"sink_tokens ({self.sink_tokens}) and overlap_tokens ({self.overlap_tokens})"
            raise ValueError(f"{told} are together at most segment_tokens ({self.segment_tokens})")

    @property
    def remembering(self) -> int:
        """How many heads have a memory."""
        return self.heads if self.memory_heads < 0 else self.memory_heads

    @property
    def tail_tokens(self) -> int:
        """How many inputs before a token its convolutions see."""
        return max(self.conv_width - 1, 0) * max(self.conv_dilations)

    @classmethod
    def paper(cls, *, d_model: int, heads: int, head_dim: int, segment_tokens: int = 2048, rule: Rule = "linear") -> InfiniConfig:
        """Equations 5 to 11 and nothing else."""
        return cls(d_model=d_model, heads=heads, head_dim=head_dim, segment_tokens=segment_tokens, rule=rule)

    @classmethod
    def reader(cls, *, d_model: int, heads: int, head_dim: int, segment_tokens: int = 256) -> InfiniConfig:
        """With what makes a small model recall: n-gram keys, sparse features, a write gate, reads of one size, gates spread out."""
        spread = [2 * head / (heads - 1) - 1 for head in range(heads)] if heads > 1 else [0.0]
        return cls(
            d_model=d_model,
            heads=heads,
            head_dim=head_dim,
            segment_tokens=segment_tokens,
            beta=tuple(spread),
            conv_width=4,
            read_norm=True,
            write_gate=True,
            feature_map="softmax",
        )
