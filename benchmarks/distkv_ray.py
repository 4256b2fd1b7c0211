"""What it costs that instances are actors of a Ray cluster, beside the same instances in one process.

    python benchmarks/distkv_ray.py [--tokens 2048] [--decoded 32] [--instances 4] [--rounds 3]

A random Llama (8 layers, hidden 512, heads of 64, two of which share a head of keys, float32) reads random tokens, of which an instance
holds no more than its share. One process with all instances and a Ray cluster on this machine with an actor for each take turns; one
thread each. A prompt is read with one token of answer, then given again, where nearly all of it is kept, with more: so prefill and decode
are apart. Times are of the wall, for to wait is what is measured; everything else on the machine falls on both, so read the ratios of pairs
and the fastest round. CPU seconds are of this process and the actors together (Ray's own servers are not in them). Where the time of Ray's
went is added up at home, parts of the fastest round: pack (tensors to bytes), submit (the actor call until it returns), wait (until
results are there; `attend` of it the slowest lender computed itself), unpack; the rest is the home's own work, merging among it, which is
measured by itself. Answers must be equal.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from distkv import checkpoint, drawn

from niah.engines import Sampling
from niah.engines.distkv.engine import DistKVEngine
from niah.engines.distkv.kernels import Partial, merged
from niah.engines.distkv.ray_engine import RayEngine

PARTS = ("pack", "submit", "wait", "unpack", "attend")


def ask(engine, prompt, count):
    return engine.generate([prompt], count, stop_ids=(), sampling=Sampling(), report=lambda _: None)


def spent(engine):
    """Of all instances."""
    import ray

    here = {"cpu_seconds": time.process_time()}
    if isinstance(engine, DistKVEngine):
        return here
    told = ray.get([actor.spent.options(concurrency_group="watch").remote() for actor in engine.service.actors.values()])
    return {name: sum(each[name] for each in told) + here.get(name, 0) for name in told[0]}


def merging_seconds(instances, heads, dim, rows):
    """Of one layer, by itself."""
    times = []
    for _ in range(50):
        parts = [Partial(torch.randn(heads, rows, dim), torch.randn(heads, rows)) for _ in range(instances)]
        began = time.perf_counter()
        merged(parts)
        times.append(time.perf_counter() - began)
    return min(times)


def call_seconds(engine):
    """An actor's call that does nothing, there and back."""
    import ray

    actor = next(iter(engine.service.actors.values()))
    call, times = actor.step.options(concurrency_group="watch"), []
    for _ in range(200):
        began = time.perf_counter()
        ray.get(call.remote(""))
        times.append(time.perf_counter() - began)
    return min(times), statistics.median(times)


def measure(engines, args):
    """For each engine and phase a row for each round: ms a token of the wall and of all processes' CPU, and of Ray's where they went."""
    rows = {(name, phase): [] for name in engines for phase in ("prefill", "decode")}
    for number in range(args.rounds):
        prompt, answers = drawn(args.tokens, number), {}
        for name, engine in engines.items() if number % 2 else reversed(engines.items()):
            there = [spent(engine)]
            read = ask(engine, prompt, 1)
            there.append(spent(engine))
            ask(engine, prompt, 1)  # what of the prompt is read again before the answer goes on
            there.append(spent(engine))
            told = ask(engine, prompt, args.decoded + 1)
            there.append(spent(engine))
            answers[name] = told.ids
            read_, again_, all_ = ({key: after[key] - before[key] for key in before} for before, after in itertools.pairwise(there))
            for phase, seconds, tokens, found in (
                ("prefill", read.prefill_seconds, args.tokens, read_),
                ("decode", told.decode_seconds, args.decoded, {key: all_[key] - again_[key] for key in all_}),
            ):
                spent_ = {key.removesuffix("_seconds"): value / tokens for key, value in found.items()}
                rows[name, phase].append(spent_ | {"wall": seconds / tokens})
            again = args.tokens - told.reused_tokens
            print(f"round {number}, {name}: remote blocks {read.measured['remote_blocks']:.0f}, read again {again}", flush=True)
        assert len(set(answers.values())) == 1, "answers differ"
    return rows


def show(rows, args, layers, heads):
    for phase in ("prefill", "decode"):
        here, there = rows["in process", phase], rows["Ray", phase]
        for what in ("wall", "cpu"):
            ratio = statistics.median(b[what] / a[what] for a, b in zip(here, there, strict=True))
            smallest = [min(row[what] for row in some) * 1e3 for some in (here, there)]
            middle = [statistics.median(row[what] for row in some) * 1e3 for some in (here, there)]
            print(
                f"{phase}, ms a token, {what}: in process {smallest[0]:.3f} to {middle[0]:.3f}, Ray {smallest[1]:.3f} to {middle[1]:.3f} "
                f"(smallest to median of {args.rounds}), median ratio of pairs {ratio:.2f}"
            )
        best = min(there, key=lambda row: row["wall"])
        rest = best["wall"] - sum(best[part] for part in PARTS[:4])
        told = ", ".join(f"{part} {best[part] * 1e3:.3f}" for part in PARTS)
        print(f"  of Ray's fastest, ms a token: {told}; the home itself {rest * 1e3:.3f}; calls {best['calls']:.3f}")
        tokens = 1 if phase == "decode" else min(1024, args.tokens)
        merging = layers * merging_seconds(args.instances, heads, 64, tokens) / tokens
        print(f"  merging {args.instances} parts, by itself: {merging * 1e3:.4f} ms a token")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--decoded", type=int, default=32)
    parser.add_argument("--instances", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    layers, hidden = 8, 512
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint(Path(folder) / "model", layers=layers, hidden=hidden, dtype="float32")
        # Room for one prompt and its answer, spread over all: none holds more than its share.
        tokens = args.tokens + args.decoded + 64 * args.instances
        room = 2 * layers * (hidden // 128) * 64 * 4 * tokens // args.instances
        how = {"instances": args.instances, "kv_memory_bytes": room, "device": "cpu"}
        engines = {"in process": DistKVEngine(path, **how), "Ray": RayEngine(path, cluster="local", threads=1, **how)}
        try:
            for engine in engines.values():
                ask(engine, drawn(200, 99), 2)
            smallest, middle = call_seconds(engines["Ray"])
            load = os.getloadavg()[0]
            print(f"{args.instances} instances, {args.tokens} tokens, 1 thread each, {os.cpu_count()} cores, load {load:.1f}")
            print(f"an empty actor call: {smallest * 1e3:.2f} ms smallest, {middle * 1e3:.2f} ms median")
            rows = measure(engines, args)
        finally:
            for engine in engines.values():
                engine.close()
    show(rows, args, layers, hidden // 64)


if __name__ == "__main__":
    main()
