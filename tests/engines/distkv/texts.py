"""Small random models of several families, texts read by them on several instances, and what must hold of instances at any time."""

import copy
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from niah.engines.distkv import cache
from niah.engines.distkv.arena import Shape
from niah.engines.distkv.fleet import Fleet
from niah.engines.distkv.home import Reading

VOCABULARY, LAYERS = 300, 3
_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": LAYERS, "max_position_embeddings": 2048,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
FAMILIES: dict[str, Any] = {
    "llama with shared heads": LlamaConfig(**_SMALL),
    "llama with heads of their own": LlamaConfig(**_SMALL | {"num_key_value_heads": 8}),
    "llama with one head of keys": LlamaConfig(**_SMALL | {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 24}),
    "mistral with a window": MistralConfig(**_SMALL, sliding_window=40),
    "qwen2 with windows in some layers": Qwen2Config(
        **_SMALL, use_sliding_window=True, sliding_window=24, layer_types=["full_attention", "sliding_attention", "sliding_attention"]
    ),
    "qwen3": Qwen3Config(**_SMALL),
}


def model_of(config: Any, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """The same random model twice: as transformers has it, and attending by DistKV."""
    torch.manual_seed(1)
    stock = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(config)).to(dtype).eval()
    with torch.no_grad():
        for parameter in stock.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)  # sharper than at the beginning of a training
    ours = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(config)).to(dtype).eval()
    ours.load_state_dict(stock.state_dict())
    cache.register()
    ours.set_attn_implementation(cache.NAME)
    return stock, ours


def shape_of(config: Any, *, block_tokens: int, dtype: torch.dtype = torch.float32) -> Shape:
    return Shape(
        layers=LAYERS, key_heads=config.num_key_value_heads, dim=config.head_dim, dtype=dtype, block_tokens=block_tokens
    )  # fmt: skip


def fleet_of(config: Any, *, instances: int, slots: int, block_tokens: int = 8, dtype: torch.dtype = torch.float32) -> Fleet:
    shape = shape_of(config, block_tokens=block_tokens, dtype=dtype)
    return Fleet(instances, shape, slots * shape.block_bytes, "cpu")


def drawn(count: int, seed: int = 0) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(VOCABULARY) for _ in range(count)]


def step(model: Any, reading: Reading, ids: Sequence[int]) -> Tensor:
    """Read more tokens of a text; logits [vocabulary] behind the last one."""
    past = cache.cache_of(reading, LAYERS)
    reading.reserve(reading.tokens + len(ids))
    with torch.inference_mode():
        return reading.read(len(ids), lambda: model(input_ids=torch.tensor([ids]), past_key_values=past, logits_to_keep=1).logits[0, -1])


def stock_logits(model: Any, ids: Sequence[int]) -> Tensor:
    """[tokens, vocabulary], by one call."""
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]


def scatter(fleet: Fleet, draw: random.Random, *, free: int) -> None:
    """Leave that many slots free in sum, here and there."""
    holes: list[tuple[str, str]] = []
    for name, manager in fleet.managers.items():
        for number in range(manager.counts.free):
            manager.allocate(f"hole-{number}", 1)
            holes.append((name, f"hole-{number}"))
    for name, hole in draw.sample(holes, free):
        fleet.managers[name].release(hole)


def assert_whole(fleet: Fleet) -> None:
    """Slots add up, nobody's memory is used twice, and debtors and creditors say the same of each other, once what is on its way is there."""
    while not fleet.mover.idle:
        fleet.mover.step(99)
        fleet.bury()
    for name in fleet.managers:
        fleet.settle(name)
    fleet.beat()
    fleet.beat()
    places: Counter[tuple[str, int]] = Counter()
    borrowed: Counter[tuple[str, str]] = Counter()
    for name, manager in fleet.managers.items():
        counts = manager.counts
        assert counts.own + counts.lent + counts.reserved + counts.free == counts.total
        assert counts.reserved == 0
        assert manager.undertakings == ()
        distinct = {id(block): block for request in manager.requests for block in manager.blocks(request)}
        for block in distinct.values():
            places[block.holder, block.slot] += 1
            assert block.holder in fleet.managers
            assert fleet.managers[block.holder].locate(block) == block.slot
            if block.holder != name:
                borrowed[name, block.holder] += 1
        for request in manager.requests:
            blocks = manager.blocks(request)
            assert sum(block.tokens for block in blocks) >= manager.tokens(request)
    assert set(places.values()) <= {1}
    assert sum(places.values()) == sum(manager.counts.own + manager.counts.lent for manager in fleet.managers.values())
    lent = {(debtor, name): n for name, manager in fleet.managers.items() for debtor, _, n in manager.lender.debtors()}
    ledger = {(debtor, row.instance): n for row in fleet.gmanager.ledger() for debtor, n in row.debtors.items()}
    assert lent == dict(borrowed) == ledger
