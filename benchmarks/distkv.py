"""The DistKV engine beside transformers' own caches, how much context N instances hold, and what common beginnings save.

    python benchmarks/distkv.py [--tokens 8192] [--rounds 3] [--long] [--threads 1] [--dtype float32] [--only speed]

A random Llama (8 layers, 8 heads of 64 that share 4 heads of keys, hidden 512; smaller for capacity and reuse) reads random tokens.

**speed**: a prompt in chunks of 1,024 and 16 tokens of answer. In each round our engine and the stock model with DynamicCache and with
StaticCache read the same prompt one after the other in one process, so that other work on the machine falls on all; CPU seconds of the
process, the median over rounds of the ratio to DynamicCache. `fragmented`: blocks of 64 tokens that all lie apart. `moved` counts bytes
between instances. --long adds 32,768 tokens. Targets: prefill 1.05 and decode 0.8 with one instance, prefill 1.15 with four.
**capacity**: the longest prompt that N instances serve, each with the same KV memory, against N times that of one; hf/ with the memory of
one beside it. That it grows with N is no merit of ours: it shows that nothing is lost. Target 0.95.
**reuse**: 5 lengths x 5 depths of one text, the deepest needle first: tokens computed, of all. Target 60%.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, StaticCache

from niah.engines import EngineError, Sampling
from niah.engines.distkv.engine import BLOCK_TOKENS, DistKVEngine
from niah.engines.hf import CHUNK_TOKENS, HfEngine

VOCABULARY, DECODED = 4096, 16


def checkpoint(folder: Path, *, layers: int, hidden: int, dtype: str) -> Path:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=hidden * 11 // 4, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=max(1, hidden // 128), max_position_embeddings=1 << 20,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def drawn(count: int, seed: int = 0) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(2, VOCABULARY) for _ in range(count)]


def ask(engine, prompt, count=1, report=lambda _: None):
    return engine.generate([prompt], count, stop_ids=(), sampling=Sampling(), report=report)


def ours(engine, prompt):
    """CPU seconds of prefill and of a decoded token, the tokens, bytes moved."""
    at = []
    started = time.process_time()
    made = ask(engine, prompt, DECODED + 1, lambda step: at.append(time.process_time()) if step.phase == "decode" else None)
    while engine.fleet.evict():  # nothing is to be read from what is kept
        pass
    return at[0] - started, (at[-1] - at[0]) / DECODED, made.ids, made.measured["moved_bytes"]


@torch.inference_mode()
def stock(model, prompt, cache):
    started = time.process_time()
    for start in range(0, len(prompt), CHUNK_TOKENS):
        output = model(input_ids=torch.tensor([prompt[start : start + CHUNK_TOKENS]]), past_key_values=cache, logits_to_keep=1)
    made = [int(output.logits[0, -1].argmax())]
    prefilled = time.process_time()
    for _ in range(DECODED):
        output = model(input_ids=torch.tensor([made[-1:]]), past_key_values=cache, logits_to_keep=1)
        made.append(int(output.logits[0, -1].argmax()))
    return prefilled - started, (time.process_time() - prefilled) / DECODED, tuple(made), 0


def engine_of(folder, instances, tokens, *, fragmented=False):
    """An engine whose instances hold so many tokens in sum, spread evenly."""
    blocks = -(-(tokens + DECODED + 1) // BLOCK_TOKENS)
    probe = DistKVEngine(folder, kv_memory_bytes=1 << 24, device="cpu")
    ask(probe, drawn(64))
    each = -(-blocks // instances) * (2 if fragmented else 1) * probe.fleet.shape.block_bytes
    engine = DistKVEngine(folder, instances=instances, kv_memory_bytes=each, device="cpu")
    ask(engine, drawn(64))
    while engine.fleet.evict():
        pass
    if fragmented:
        for name, manager in engine.fleet.managers.items():
            for number in range(manager.counts.free):
                manager.allocate(f"{name}-{number}", 1)
            for number in range(0, manager.counts.total, 2):
                manager.release(f"{name}-{number}")
    return engine


def speed(folder, tokens, rounds):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    engines = {
        "1 instance": engine_of(folder, 1, tokens),
        "4 instances": engine_of(folder, 4, tokens),
        "1, fragmented": engine_of(folder, 1, tokens, fragmented=True),
        "4, fragmented": engine_of(folder, 4, tokens, fragmented=True),
    }
    rows = {name: [] for name in ("DynamicCache", "StaticCache", *engines)}
    for number in range(rounds):
        prompt = drawn(tokens, number)
        rows["DynamicCache"].append(stock(model, prompt, DynamicCache(config=model.config)))
        rows["StaticCache"].append(stock(model, prompt, StaticCache(config=model.config, max_cache_len=tokens + DECODED)))
        for name, engine in engines.items():
            rows[name].append(ours(engine, prompt))
    print(f"\n{tokens:,} tokens: {'prefill s':>21} {'of Dynamic':>11} {'decode ms':>10} {'of Dynamic':>11} {'moved MB':>9}  same tokens")
    base = rows["DynamicCache"]
    for name, found in rows.items():
        prefill, decode, made, moved = zip(*found, strict=True)
        shares = [statistics.median(one[at] / other[at] for one, other in zip(found, base, strict=True)) for at in (0, 1)]
        same = all(one == other[2] for one, other in zip(made, base, strict=True))
        print(
            f"{name:<22} {statistics.median(prefill):>12.2f} {shares[0]:>11.2f} {statistics.median(decode) * 1e3:>10.1f} "
            f"{shares[1]:>11.2f} {moved[0] / 1e6:>9.0f}  {'yes' if same else 'NO'}"
        )


def longest(engine, most):
    """The longest prompt that is served with one token of answer."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        try:
            ask(engine, drawn(middle))
            low = middle
        except EngineError:
            high = middle - 1
    return low


def capacity(folder, tokens):
    probe = DistKVEngine(folder, kv_memory_bytes=1 << 24, device="cpu")
    ask(probe, drawn(64))
    bytes_ = tokens // BLOCK_TOKENS * probe.fleet.shape.block_bytes
    plain = longest(HfEngine(folder, device="cpu", memory_bytes=bytes_), 2 * tokens)
    print(f"\nKV memory of one: {bytes_ / 1e6:.1f} MB; hf/ with that reads {plain:,} tokens\ninstances  longest  of N times one")
    one = 0
    for instances in (1, 2, 4, 8, 20):
        found = longest(DistKVEngine(folder, instances=instances, kv_memory_bytes=bytes_, device="cpu"), 2 * instances * tokens)
        one = one or found
        print(f"{instances:>9} {found:>8,} {found / (instances * one):>14.3f}")


def reuse(folder, longest_tokens):
    base = drawn(longest_tokens)
    cells = [
        (depth * length // 4, length)
        for length in range(longest_tokens // 5, longest_tokens + 1, longest_tokens // 5)
        for depth in range(5)
    ]
    shares = []
    for engine in (DistKVEngine(folder, instances=4, kv_memory_bytes=1 << 26, device="cpu"), HfEngine(folder, device="cpu")):
        total = read = 0
        for at, length in sorted(cells, reverse=True):
            prompt = [*base[:at], *drawn(24, at + length), *base[at : length - 24]]
            total, read = total + len(prompt), read + len(prompt) - ask(engine, prompt).reused_tokens
        shares.append(read / total)
    print(f"\n5 lengths x 5 depths to {longest_tokens:,} tokens: {shares[0]:.1%} of the tokens computed (hf/: {shares[1]:.1%})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--only", choices=("speed", "capacity", "reuse"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.disable_progress_bar()
    print(f"{options.threads} thread(s) on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.dtype}")
    with tempfile.TemporaryDirectory() as place:
        if options.only in (None, "speed"):
            folder = checkpoint(Path(place) / "model", layers=8, hidden=512, dtype=options.dtype)
            for tokens in (options.tokens, *([32_768] if options.long else [])):
                speed(folder, tokens, options.rounds)
        small = checkpoint(Path(place) / "small", layers=2, hidden=128, dtype="float32")
        if options.only in (None, "capacity"):
            capacity(small, 512)
        if options.only in (None, "reuse"):
            reuse(small, 4000)


if __name__ == "__main__":
    main()
