"""Trained readers as checkpoint folders: `export_full` for transformers and whoever reads its format, `export_infini` for `infini/`.

Both carry niah-8k as a tokenizer.json, and the chat template that training's episodes follow (niah/training/episodes.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from niah.engines.infini.checkpoint import save_checkpoint
from niah.engines.infini.model import InfiniModel, ModelConfig
from niah.task.tokens import NIAH_8K_PATTERN, NIAH_8K_SPECIAL, niah_8k_encoding
from niah.training.llama import LlamaShape

BOS, EOS, PAD = "<|bos|>", "<|end|>", "<|pad|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def export_full(state: Mapping[str, Tensor], shape: LlamaShape, folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write the weights of `niah.training.llama.Llama` as a Hugging Face `LlamaForCausalLM`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{name}": tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = shape.to_hugging_face() | {"torch_dtype": str(dtype).removeprefix("torch.")}
    _write(folder / "config.json", config)
    ends = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write(folder / "generation_config.json", ends | {"do_sample": False})
    export_tokenizer(folder, window_tokens=shape.max_position_embeddings)


def export_infini(state: Mapping[str, Tensor], config: ModelConfig, folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write the weights of an `InfiniModel` that was trained as in niah/training/infini.py: questions begin a new segment."""
    model = InfiniModel(replace(config, border_at_question=True))
    model.load_state_dict(state)
    save_checkpoint(model, folder, dtype=dtype)
    export_tokenizer(folder)


def export_tokenizer(folder: Path, *, window_tokens: int | None = None) -> None:
    """Write niah-8k with its chat template: tokenizer.json and tokenizer_config.json."""
    (folder / "tokenizer.json").write_text(hugging_face_tokenizer().to_str(pretty=False) + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS, "pad_token": PAD,
        "clean_up_tokenization_spaces": False, "chat_template": CHAT_TEMPLATE,
    }  # fmt: skip
    _write(folder / "tokenizer_config.json", settings | ({"model_max_length": window_tokens} if window_tokens else {}))


def hugging_face_tokenizer() -> Any:
    """The `tokenizers.Tokenizer` that gives the ids of niah-8k."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    encoding = niah_8k_encoding()
    tokens: list[bytes] = sorted(encoding.token_byte_values(), key=encoding.encode_single_token)
    vocabulary = {_written(token): rank for rank, token in enumerate(tokens)}
    ranks = {token: rank for rank, token in enumerate(tokens)}
    merges = [_halves(token, ranks) for token in tokens if len(token) > 1]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[(_written(left), _written(right)) for left, right in merges]))
    words = pre_tokenizers.Split(Regex(NIAH_8K_PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in NIAH_8K_SPECIAL])
    return tokenizer


def _halves(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that a token was merged from: what is left when only merges that are older than it are done."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        at = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], len(ranks)))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _written(token: bytes) -> str:
    """Bytes as a byte-level BPE writes them: printable Latin-1 as it is, the others from U+0100 on, in order."""
    return "".join(_LETTERS[byte] for byte in token)


def _letters() -> list[str]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 0x100 + others.index(byte)) for byte in range(256)]


_LETTERS = _letters()


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
