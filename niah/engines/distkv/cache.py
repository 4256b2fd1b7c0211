"""How a model of transformers comes to attend by DistKV: an attention function under a name of its own, and a cache that holds no keys.

A cache layer hands the new keys on as they are, with the text that they belong to as an attribute; the attention function finds it there.
So nothing is global, and the modelling code of any architecture that attends through `AttentionInterface` stays as it is.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor
from transformers import AttentionInterface, Cache
from transformers.cache_utils import CacheLayerMixin

from niah.engines import EngineError
from niah.engines.distkv.instance import Query
from niah.engines.distkv.kernels import KV

NAME = "niah_distkv"
"""For `model.set_attn_implementation`. No mask is ever made for a name that is unknown to transformers' masks."""
_BESIDE = ("softcap", "s_aux", "sinks", "head_mask", "indices")
"""Arguments of attention functions that change the result, and that this one does not know."""


class Text(Protocol):
    """A text that is being read."""

    @property
    def tokens(self) -> int:
        """How many there are before those that are being read."""
        ...

    def attend(self, query: Query, own: KV) -> Tensor:
        """Keep the new tokens' keys and values; attention `[heads, rows, dim]` of their queries to all so far."""
        ...


class _Layer(CacheLayerMixin):
    """One layer of a text's cache."""

    def __init__(self, text: Text):
        super().__init__()
        self._text = text

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        key_states.niah_text = self._text  # pyright: ignore[reportAttributeAccessIssue]
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._text.tokens + query_length, 0

    def get_seq_length(self) -> int:
        return self._text.tokens

    def get_max_length(self) -> int:
        return -1


def cache_of(text: Text, layers: int) -> Cache:
    """What a model takes as `past_key_values` to go on with a text, one text a call."""
    return Cache(layers=[_Layer(text) for _ in range(layers)])


def register() -> None:
    """Make the name known to transformers."""
    AttentionInterface.register(NAME, _attention)


def _attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **how: Any) -> tuple[Tensor, None]:
    """`query` `[1, heads, rows, dim]`, `key` and `value` `[1, key heads, rows, dim]` of the new tokens; `[1, rows, heads, dim]`."""
    text: Text | None = getattr(key, "niah_text", None)
    strange = [name for name in _BESIDE if how.get(name) is not None] + ["attention_mask"] * (attention_mask is not None)
    if text is None or strange or query.shape[0] != 1 or key.shape != value.shape or query.shape[-1] != key.shape[-1]:
        what = f" ({', '.join(strange)})" if strange else ""
        raise EngineError(f"{type(module).__name__} attends in a way that distkv/ does not know{what}: try hf/", kind="checkpoint")
    scale: float | None = how.get("scaling")
    asked = Query(
        layer=module.layer_idx,
        rows=query[0],
        position=text.tokens,
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        window=how.get("sliding_window"),
    )
    return text.attend(asked, (key[0], value[0])).transpose(0, 1)[None], None
