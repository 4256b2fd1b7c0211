"""Any Llama-family checkpoint into Infini-attention: the same weights, attention in segments, a memory beside it whose gates begin closed.

Within one segment the converted model is the checkpoint, token for token; training then opens the gates. The mechanism is the
paper's (arXiv 2404.07143, equations 5 to 11) and nothing else; the family's own traits stay: shared heads of k and v, biases, norms on
q and k, rescaled rotations.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from niah.engines import EngineError
from niah.engines.checkpoint import Checkpoint, first_line, open_checkpoint, quiet
from niah.engines.infini.config import InfiniConfig, Rule
from niah.engines.infini.model import InfiniModel, ModelConfig
from niah.errors import UsageError
from niah.training.batches import Batch, collate
from niah.training.episodes import Episode
from niah.training.template import Template

FAMILY = ("llama", "mistral", "qwen2", "qwen3")
_PLAIN_ROTATIONS = ("default", "linear", "llama3")
"""Kinds of rope scaling that only change the frequencies."""
_NAMES = {
    "input_layernorm.": "input_norm.", "post_attention_layernorm.": "mlp_norm.", "self_attn.": "attention.",
    "model.embed_tokens.": "embed.", "model.layers.": "layers.", "model.norm.": "norm.", "lm_head.": "head.",
}  # fmt: skip


class ConvertedReader:
    """A `Reader` (niah/training/train.py). Whole conversations go through it as one stream, as an engine would read them."""

    def __init__(self, model: InfiniModel, pad: int):
        self.model = model
        self._pad = pad

    def begin(self, weights: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(weights)

    def collate(self, episodes: Sequence[Episode], tokens: int, rng: random.Random | None) -> Batch:
        return collate(episodes, tokens, pad=self._pad)

    def logits(self, batch: Batch, *, virtual_times: float) -> Tensor:
        weight = torch.where(batch.needle == -1, virtual_times, 1.0) if virtual_times > 1 else None
        hidden, _ = self.model(batch.ids, write_weight=weight)
        return self.model.logits(hidden.flatten(0, 1)[batch.at])

    def extra_losses(self, batch: Batch) -> dict[str, Tensor]:
        return {}

    def gates(self) -> list[nn.Parameter]:
        return [attention.beta for attention in self.model.attentions()]

    def heads(self) -> dict[int, tuple[int, int]]:
        return {}


def is_convertible(name: str) -> bool:
    """Whether a folder or a model on the hub is of the family. UsageError when it is neither."""
    return _config(_opened(name)).model_type in FAMILY


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What a checkpoint's attention becomes: the paper's, every head of which begins with sigmoid(`gate`) of its output from memory."""

    segment_tokens: int = 2048
    rule: Rule = "linear"
    gate: float = -4.0


def converted(name: str, conversion: Conversion) -> tuple[InfiniModel, Template]:
    """The checkpoint in a folder or on the hub as an Infini-attention model in float32, and its way to write episodes.

    UsageError for another architecture, for traits that cannot be kept, and for weights that do not fit.
    """
    checkpoint = _opened(name)
    config = _config(checkpoint)
    if config.model_type not in FAMILY:
        raise UsageError(f"{name} is a {config.model_type}: niah converts {', '.join(FAMILY)}")
    script = Template(checkpoint.folder)
    try:
        checkpoint.fetch_weights()
        source: Any = quiet().AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=torch.float32, local_files_only=True)
    except Exception as error:  # of many libraries
        raise UsageError(f"the weights of {name} cannot be read: {first_line(error)}") from None
    model = InfiniModel(_model_config(name, source, conversion))
    weights = _renamed(source.state_dict(), tied=model.config.tied_embeddings)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or any(not key.endswith("attention.beta") for key in missing):
        raise UsageError(f"the weights of {name} do not fit its config.json: {', '.join([*unexpected, *missing][:3])}")
    return model, script


def _model_config(name: str, source: Any, conversion: Conversion) -> ModelConfig:
    """The configuration that keeps what the checkpoint's config.json and weights say. UsageError for what cannot be kept."""
    config, segment_tokens = source.config, conversion.segment_tokens
    keys = source.state_dict().keys()
    if config.hidden_act not in ("silu", "swish"):
        raise UsageError(f"{name} has the activation {config.hidden_act}: niah converts models with silu")
    if any(key.endswith(("gate_proj.bias", "down_proj.bias")) for key in keys):
        raise UsageError(f"{name} has biases in its MLP: niah does not convert such models")
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) and window and window < segment_tokens:
        raise UsageError(
            f"{name} attends to {window:,} tokens only: give segments of at most as many (segment_tokens in the recipe's model)"
        )
    heads = int(config.num_attention_heads)
    layer = InfiniConfig(
        d_model=config.hidden_size, heads=heads, kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads, segment_tokens=segment_tokens,
        rule=conversion.rule, beta=(conversion.gate,) * heads, norm_epsilon=config.rms_norm_eps,
        rope_frequencies=_frequencies(name, config, source.model.rotary_emb, segment_tokens),
        attention_bias=any(key.endswith("q_proj.bias") for key in keys), value_bias=any(key.endswith("v_proj.bias") for key in keys),
        output_bias=any(key.endswith("o_proj.bias") for key in keys), query_key_norm=any(key.endswith("q_norm.weight") for key in keys),
    )  # fmt: skip
    ends = config.eos_token_id
    return ModelConfig(
        vocabulary=config.vocab_size, d_model=config.hidden_size, mlp=config.intermediate_size, layers=(layer,) * config.num_hidden_layers,
        norm_epsilon=config.rms_norm_eps, tied_embeddings=bool(config.tie_word_embeddings),
        end_tokens=tuple(ends) if isinstance(ends, list) else () if ends is None else (int(ends),),
    )  # fmt: skip


def _opened(name: str) -> Checkpoint:
    try:
        return open_checkpoint(name)
    except EngineError as error:
        raise UsageError(f"checkpoint {name}: {error}") from None


def _config(checkpoint: Checkpoint) -> Any:
    try:
        return quiet().AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of many libraries
        raise UsageError(f"the config.json of {checkpoint.folder} cannot be read: {first_line(error)}") from None


def _frequencies(name: str, config: Any, rotation: Any, segment_tokens: int) -> tuple[float, ...]:
    """What the model itself turns by, radians a token; a scaling that does more than to change them is refused."""
    settings: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    kind = settings.get("rope_type", "default")
    original = settings.get("original_max_position_embeddings") or config.max_position_embeddings
    steady = kind in _PLAIN_ROTATIONS or (kind == "dynamic" and segment_tokens <= original)
    if not steady or float(getattr(rotation, "attention_scaling", 1.0)) != 1.0:
        raise UsageError(
            f"{name} scales its rotations by {kind!r}: niah converts {', '.join(_PLAIN_ROTATIONS)}, and dynamic in short segments"
        )
    return tuple(float(each) for each in rotation.inv_freq)


def _renamed(weights: Mapping[str, Tensor], *, tied: bool) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        for theirs, ours in _NAMES.items():
            key = key.replace(theirs, ours)  # noqa: PLW2901
        if not (tied and key == "head.weight"):
            renamed[key] = value
    return renamed
