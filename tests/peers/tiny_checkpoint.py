"""A tiny Llama with random weights, a byte-level BPE and a chat template: what `transformers serve` needs, and no hub.

    PYTHON tiny_checkpoint.py make FOLDER                  write the checkpoint
    PYTHON tiny_checkpoint.py answer FOLDER < prompts      answer [{"messages", "max_new_tokens"}, ...] without any server, greedily

PYTHON is that of the peers' environment (torch, transformers). The same versions of these make the same bytes. Its answers
are babble that depends on the whole prompt: weights are drawn wide enough for attention to matter, and the end of the turn
is likely enough that some answers end by themselves and others at the cap.
"""

import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

WINDOW = 4096
VOCABULARY = 1024
BOS, END, PAD = "<|bos|>", "<|end|>", "<|pad|>"
TURNS = ("<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}" + END + "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SEED = 20
_WORDS = """
the of and to in a is was for on with as by at from that it which be or are this an not have has were had they their its been also
more one two first new other year years time people state company court patient study report house river city school music book
water light system number during between after before under over within three four small large high low found made used given
according including because however although several together agreement treatment property government history increase section
"""
_ENDINGS = ("", "", "", "s", "ed", "ing", "er", "ly", "ment", "tion", "al", "ness")


def render(messages: Sequence[Mapping[str, str]]) -> str:
    """What the chat template makes of messages, told a second time in Python: what the model reads before it answers."""
    turns = "".join(f"<|{message['role']}|>{message['content']}{END}" for message in messages)
    return f"{BOS}{turns}<|assistant|>"


def overhead(messages: Sequence[Mapping[str, str]]) -> int:
    """The tokens that the template adds: one before, two a turn, one behind. None of them joins with the text beside it."""
    return 2 + 2 * len(messages)


def _text() -> Iterator[str]:
    """Sentences that are nearly English, for the merges of the BPE."""
    draw, known = random.Random(_SEED), _WORDS.split()
    for _ in range(4000):
        words = [draw.choice(known) + draw.choice(_ENDINGS) for _ in range(draw.randint(4, 16))]
        if draw.random() < 0.3:
            words[draw.randrange(len(words))] = str(draw.randint(1, 2100))
        yield f"{words[0].capitalize()} {' '.join(words[1:])}. "


def make(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [BOS, END, PAD, *TURNS]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(_text(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BOS, eos_token=END, pad_token=PAD, additional_special_tokens=list(TURNS), model_max_length=WINDOW
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)

    torch.manual_seed(_SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        initializer_range=0.25,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight[config.eos_token_id] *= 2.5
    model.save_pretrained(folder)


def answer(folder: Path, prompts: Sequence[Mapping[str, Any]]) -> list[str]:
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = LlamaForCausalLM.from_pretrained(folder)
    texts: list[str] = []
    for prompt in prompts:
        ids = tokenizer.encode(render(prompt["messages"]), add_special_tokens=False).ids
        made = model.generate(torch.tensor([ids]), max_new_tokens=prompt["max_new_tokens"], do_sample=False)
        texts.append(tokenizer.decode(made[0, len(ids) :].tolist(), skip_special_tokens=True))
    return texts


if __name__ == "__main__":
    what, where = sys.argv[1], Path(sys.argv[2])
    if what == "make":
        make(where)
    else:
        print(json.dumps(answer(where, json.load(sys.stdin))))
