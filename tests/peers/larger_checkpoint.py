"""A random Llama with heads of 64 dimensions, which vLLM's attention on CPUs wants, and the same as a GGUF file for llama.cpp.

    PYTHON larger_checkpoint.py make FOLDER         write the checkpoint (needs torch and transformers)
    PYTHON larger_checkpoint.py gguf FOLDER FILE    make a GGUF file of it (needs gguf and safetensors)

The vocabulary is a byte-level BPE of 2,048 pieces from the standard library's own text. 2.2 million parameters.
"""

import json
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HIDDEN, LAYERS, HEADS, KEY_HEADS, POSITIONS = 256, 2, 4, 2, 8192
TEMPLATE = (
    "{{bos_token}}{% for m in messages %}<|{{m['role']}}|>\n{{m['content']}}"
    "{% if not loop.last or add_generation_prompt %}</s>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPECIAL = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]


def render(messages: Sequence[Mapping[str, str]]) -> str:
    """What the template makes of messages in front of an answer, told a second time in Python."""
    turns = "".join(f"<|{message['role']}|>\n{message['content']}</s>\n" for message in messages)
    return f"<s>{turns}<|assistant|>\n"


def make(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:50]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2048, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator((file.read_text(errors="ignore") for file in files), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=POSITIONS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def to_gguf(folder: Path, file: Path) -> None:
    import gguf
    import numpy as np
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_name("tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_file_type(0)
    writer.add_vocab_size(config["vocab_size"])
    pieces, kinds = [""] * config["vocab_size"], [1] * config["vocab_size"]
    for piece, id_ in tokenizer["model"]["vocab"].items():
        pieces[id_] = piece
    for added in tokenizer["added_tokens"]:
        pieces[added["id"]], kinds[added["id"]] = added["content"], 3  # a control token
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    writer.add_chat_template((folder / "chat_template.jinja").read_text())
    names = _names(config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    with safe_open(str(folder / "model.safetensors"), "np") as tensors:
        for name in tensors.keys():  # noqa: SIM118  # it is no mapping
            tensor = tensors.get_tensor(name).astype(np.float32)
            of = next((count for part, count in heads.items() if part in name), None)
            writer.add_tensor(names[name], np.ascontiguousarray(tensor if of is None else _interleaved(tensor, of)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleaved(tensor: Any, heads: int) -> Any:
    """Rows in the order in which llama.cpp rotates them: pairs beside each other."""
    return tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def _names(layers: int) -> dict[str, str]:
    parts = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    names |= {f"model.layers.{n}.{theirs}": f"blk.{n}.{ours}" for n in range(layers) for theirs, ours in parts.items()}
    return {f"{theirs}.weight": f"{ours}.weight" for theirs, ours in names.items()}


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        to_gguf(Path(sys.argv[2]), Path(sys.argv[3]))
