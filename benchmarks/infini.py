"""Tokens that Infini-attention streams a second of CPU time, one thread, beside infini-transformer-pytorch at equal shape.

    make .venv-infini/installed
    python benchmarks/infini.py [--tokens 65536] [--rounds 2] [--reader infini/bundled]

Equal shape: dim 256, depth 4, 4 heads of 64, gated MLP of 682, 4,096 tokens known, segments of 512; ours is the `paper` preset. Each row is
a process of its own, and the rows of a round run one after the other, so that other work on the machine falls on all: compare ratios, not
figures of two runs. The peer is fed segment by segment with its memories, for its own generate() reads only a prompt's last segment. It
makes logits of every token; `whole` is ours with all layers' outputs, `absorb` what our engine does with a text. `growth` is the peak of
memory beyond the first segment's. Target: twice the peer's better row, at best three times.

With --reader (as in infini/bundled, or a folder) that model reads 8k tokens and --reader-tokens, with two threads: CPU and wall seconds,
and how much higher the second peak is.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
PEER = ROOT / ".venv-infini" / "bin" / "python"
SEGMENT, VOCABULARY = 512, 4096
MLP = int(4 * 256 * 2 / 3)
PROGRAMS = (
    "peer linear float32",
    "peer delta float32",
    "absorb linear bfloat16",
    "absorb delta bfloat16",
    "whole linear bfloat16",
    "absorb linear float32",
)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(program: str, tokens: int) -> None:
    """In a process of its own: tokens per CPU second, growth in bytes."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    whose, rule, dtype = program.split()
    step = (peer if whose == "peer" else ours)(rule, getattr(torch, dtype), whose)
    ids = torch.randint(0, VOCABULARY, (1, tokens))
    with torch.inference_mode():
        state = step(ids[:, :SEGMENT], None)
        before, started = peak_bytes(), time.process_time()
        for start in range(SEGMENT, tokens, SEGMENT):
            state = step(ids[:, start : start + SEGMENT], state)
    print((tokens - SEGMENT) / (time.process_time() - started), peak_bytes() - before)


def ours(rule, dtype, how):
    from niah.engines.infini.config import InfiniConfig
    from niah.engines.infini.model import InfiniModel, ModelConfig

    layer = InfiniConfig.paper(d_model=256, heads=4, head_dim=64, segment_tokens=SEGMENT, rule=rule)
    model = InfiniModel(ModelConfig(vocabulary=VOCABULARY, d_model=256, mlp=MLP, layers=(layer,) * 4)).to(dtype).eval()
    return model.absorb if how == "absorb" else lambda ids, states: model(ids, states)[1]


def peer(rule, dtype, _):
    from infini_transformer_pytorch import InfiniTransformer

    model = (
        InfiniTransformer(num_tokens=VOCABULARY, dim=256, depth=4, dim_head=64, heads=4, use_mem_delta_rule=rule == "delta")
        .to(dtype)
        .eval()
    )

    def step(ids, memories):
        return model(ids, past_memories=memories, return_new_memories=True).past_memories

    return step


def read(model, tokens):
    """In a process of its own: a local model reads a text; CPU seconds, wall seconds, peak in bytes."""
    import random
    from array import array

    from niah.engines import BORDER, Sampling
    from niah.engines.checkpoint import bundled
    from niah.engines.infini.engine import InfiniEngine

    engine = InfiniEngine(Path(bundled("infini") if model == "infini/bundled" else model), device="cpu")
    draw = random.Random(0)
    pieces = (array("i", (draw.randrange(8184) for _ in range(1000))) for _ in range(tokens // 1000))
    engine.generate([[5] * 1000], 1, stop_ids=(), sampling=Sampling(), report=lambda _: None)
    cpu, wall = time.process_time(), time.perf_counter()
    engine.generate((*pieces, BORDER, [5] * 20), 1, stop_ids=(), sampling=Sampling(), report=lambda _: None)
    print(time.process_time() - cpu, time.perf_counter() - wall, peak_bytes())


def run(*options):
    """This file as a process of its own; the numbers that it prints."""
    python = PEER if options[1].startswith("peer") else sys.executable
    done = subprocess.run([python, __file__, *map(str, options)], check=True, capture_output=True, text=True, cwd=ROOT)
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--reader")
    parser.add_argument("--reader-tokens", type=int, default=1_000_000)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measured(options.one, options.tokens)
        return
    if options.read:
        read(options.read, options.tokens)
        return
    programs = [each for each in PROGRAMS if PEER.exists() or not each.startswith("peer")]
    if not PEER.exists():
        print("the peer is not there: make .venv-infini/installed")
    rows = {program: [] for program in programs}
    for _ in range(options.rounds):
        for program in programs:
            rows[program].append(run("--one", program, "--tokens", options.tokens))
    best = max((statistics.median(row[0] for row in rows[each]) for each in programs if each.startswith("peer")), default=None)
    print(f"load {os.getloadavg()[0]:.1f}\n{'program':<24} {'tokens/CPU-s':>13} {'of peer':>8} {'growth MB':>10}")
    for program, found in rows.items():
        speed, growth = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"{program:<24} {speed:>13,.0f} {f'{speed / best:.2f}' if best else '':>8} {growth / 1e6:>10.1f}")
    if options.reader:
        tokens = options.reader_tokens
        (_, _, small), (cpu, wall, large) = (run("--read", options.reader, "--tokens", each) for each in (8000, tokens))
        print(f"{options.reader}: {tokens:,} tokens in {cpu:.0f} CPU s, {wall:.0f} s; peak {(large - small) / 1e6:.0f} MB over 8k's")


if __name__ == "__main__":
    main()
