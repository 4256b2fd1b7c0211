"""How fast our own engine is, as the simulator's coefficients, and how well these foretell runs over 2 and 4 processes.

    python benchmarks/distkv_simulator.py [--out fitted.json] [--rounds 3] [--tokens 1024 2048 4096]
    niah distkv simulate --fitted fitted.json

A random Llama (4 layers, 4 heads of 64 that share 2 heads of keys, hidden 256), float32, one thread a process.

**fit**: prompts of several lengths, and steps of decoding for 1, 2 and 4 texts in turn (the engine has no batches, so that f of the model
grows with the batch like its work), all by one instance in this process. A message on the link
costs what the lender's work in a short run of 2 processes says, bytes cost what large arrays cost one end of a pipe, all in CPU seconds.
**validation**: the home in this process, 1 or 3 lenders in processes of their own, memory such that a prompt fits into all of them only.
The simulator is given the fit, the memory and the same single request; foretold and measured is the work of the home and of all lenders
together, in CPU seconds of the processes: on a machine with other work on it time on the clock says nothing. The fit has not seen these
runs. Not validated: queues of several requests, and that work in several processes goes on at once.
"""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from datetime import date
from math import ceil
from pathlib import Path

import torch
import transformers
from distkv import checkpoint

from niah.engines import Sampling
from niah.engines.distkv.blocks import Memory
from niah.engines.distkv.engine import BLOCK_TOKENS, DistKVEngine
from niah.engines.distkv.fleet import Fleet
from niah.engines.distkv.home import Home
from niah.engines.distkv.instance import LocalInstance
from niah.engines.distkv.kernels import Partial
from niah.engines.distkv.performance import DecodePoint, Fitted, Link, Performance, PrefillPoint, fitted
from niah.engines.distkv.scenario import Scenario
from niah.engines.distkv.simulate import simulate
from niah.engines.distkv.trace import Arrival, Traffic

LAYERS, HIDDEN, VOCABULARY, ANSWER = 4, 256, 4096, 33


class Far:
    """A lender in a process of its own, with a pipe to it."""

    def __init__(self, name, epoch, shape, memory_bytes):
        self.name, self.epoch, self.alive, self.arena = name, epoch, True, LocalInstance(name, epoch, shape, memory_bytes, "cpu").arena
        fork = multiprocessing.get_context("fork")
        self.pipe, theirs = fork.Pipe()
        self.process = fork.Process(target=lend, args=(theirs, LocalInstance(name, epoch, shape, memory_bytes, "cpu")), daemon=True)
        self.process.start()

    def write(self, layer, start, kv):
        self.pipe.send(("write", layer, start, *(each.numpy() for each in kv)))

    def attend(self, query, runs):
        self.pipe.send(("attend", query._replace(rows=query.rows.numpy()), [*runs]))
        return lambda: Partial(*(torch.from_numpy(each) for each in self.pipe.recv()))

    def cpu_seconds(self):
        self.pipe.send(("cpu",))
        return self.pipe.recv()

    def echo(self, array):
        self.pipe.send(("echo", array))
        return self.pipe.recv()


@torch.inference_mode()
def lend(pipe, instance):
    """What a lender's process does."""
    while True:
        what, *given = pipe.recv()
        match what:
            case "write":
                layer, start, *kv = given
                instance.write(layer, start, [torch.from_numpy(each) for each in kv])
            case "attend":
                query, runs = given
                pipe.send([each.numpy() for each in instance.attend(query._replace(rows=torch.from_numpy(query.rows)), runs)()])
            case "cpu":
                pipe.send(time.process_time())
            case "echo":
                pipe.send(given[0])


class Processes(Fleet):
    """All instances but the first are in processes of their own."""

    def start(self, name):
        super().start(name)
        if name != "0":
            self._instances[name] = Far(name, 0, self.shape, self.memory_bytes)

    def lenders(self):
        return [each for each in self._instances.values() if isinstance(each, Far)]


class ProcessEngine(DistKVEngine):
    def _group(self, shape, memory_bytes):
        return Processes(self._instances, shape, memory_bytes, self.device)


def drawn(count, seed):
    draw = random.Random(seed)
    return [draw.randrange(2, VOCABULARY) for _ in range(count)]


def emptied(engine):
    while engine.fleet.evict():
        pass
    return engine


@torch.inference_mode()
def points(engine, lengths, rounds):
    """CPU seconds of prefill by length, of steps by batch and length, the median over rounds."""
    prefill, decode = [], []
    for tokens in lengths:
        reads, steps = [], {1: [], 2: [], 4: []}
        for number in range(rounds):
            started = time.process_time()
            engine._reuse(drawn(tokens, number))
            for start in range(0, tokens, engine._chunk_tokens):
                engine._forward(drawn(tokens, number)[start : start + engine._chunk_tokens])
            reads.append(time.process_time() - started)
            for batch, found in steps.items():
                for token in range(8):
                    started = time.process_time()
                    for _ in range(batch):  # the same keys again and again: as good as those of other texts of that length
                        engine._forward([token + 2])
                        engine._reading.tokens = engine._home.manager.truncate(engine._reading.request, tokens)
                        del engine._read[tokens:]
                    found.append(time.process_time() - started)
            engine._forget()
        prefill.append(PrefillPoint(tokens, statistics.median(reads)))
        decode += [DecodePoint(batch, batch * tokens, statistics.median(found)) for batch, found in steps.items()]
    return prefill, decode


def link_of(folder, lender, fit, rounds):
    """What a message costs by the lender's work in a short run of 2 processes, less its attention; bytes by large arrays at this end."""
    tokens = 512
    _, seconds, _ = run(folder, 2, tokens, rounds)
    attention = fit.token_seconds * tokens / 2 * (ANSWER - 1)
    array, times = torch.zeros(1 << 20).numpy(), []
    for _ in range(10 * rounds):
        started = time.process_time()
        lender.echo(array)
        times.append((time.process_time() - started) / 2)
    return Link(
        (seconds - attention) / (3 * LAYERS * (ANSWER - 1)),  # query, partial result, new keys
        array.nbytes / statistics.median(times),
    )


def foretold(fit, instances, slots, tokens):
    """The home's work and that of all lenders, seconds."""
    scenario = Scenario(
        instances=instances, traffic=Traffic(requests=1, requests_per_second=1, longest_tokens=tokens),
        memory=Memory(slots=slots, block_tokens=BLOCK_TOKENS), node_size=instances, near=fit.link, far=fit.link,
        performance=fit.performance,
    )  # fmt: skip
    outcome = simulate(scenario, [Arrival(0.0, tokens, ANSWER - 1)])
    assert outcome.served == 1
    home = max(outcome.work_seconds.values())
    return home, sum(outcome.work_seconds.values()) - home


def run(folder, instances, tokens, rounds):
    """The same, measured: the median of rounds; and the slots of an instance."""
    blocks = ceil(ceil((tokens + ANSWER) / BLOCK_TOKENS) / instances)
    probe = 2 * LAYERS * (HIDDEN // 128) * 64 * 4 * BLOCK_TOKENS
    engine = ProcessEngine(folder, instances=instances, kv_memory_bytes=(blocks + 1) * probe, device="cpu")
    found = []
    for number in range(rounds + 1):  # the first warms up
        lenders = engine.fleet.lenders() if engine.fleet else []
        before = sum(each.cpu_seconds() for each in lenders)
        started = time.process_time()
        made = engine.generate([drawn(tokens, number)], ANSWER, stop_ids=(), sampling=Sampling(), report=lambda _: None)
        home = time.process_time() - started
        assert made.measured["remote_blocks"] > 0
        found.append((home, sum(each.cpu_seconds() for each in lenders) - before))
        emptied(engine)
    slots = engine.fleet.managers["0"].counts.total
    for lender in engine.fleet.lenders():
        lender.process.kill()
    return *(statistics.median(each) for each in zip(*found[1:], strict=True)), slots


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("fitted.json"))
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        folder = checkpoint(Path(place) / "model", layers=LAYERS, hidden=HIDDEN, dtype="float32")
        engine = ProcessEngine(folder, instances=2, kv_memory_bytes=1 << 26, device="cpu")
        engine.generate([drawn(64, 0)], 2, stop_ids=(), sampling=Sampling(), report=lambda _: None)
        emptied(engine)
        assert isinstance(engine._home, Home)
        prefill, decode = points(engine, options.tokens, options.rounds)
        query_bytes = LAYERS * (HIDDEN * 8 + HIDDEN // 64 * 4)
        sizes = Performance(
            step_seconds=0, request_seconds=0, token_seconds=0, prefill_token_seconds=0, prefill_pair_seconds=0, layers=LAYERS,
            kv_bytes_per_token=engine.fleet.shape.block_bytes // BLOCK_TOKENS, query_bytes=query_bytes, kind="measured", source="",
        )  # fmt: skip
        source = (
            f"benchmarks/distkv_simulator.py on {date.today()}: CPU seconds of niah's own engine, one thread, float32, a random Llama of "
            f"{LAYERS} layers, hidden {HIDDEN}, {os.cpu_count()} shared cores"
        )
        speeds = fitted(sizes, decode, prefill, source=source)
        fit = Fitted(speeds, link_of(folder, engine.fleet.lenders()[0], speeds, options.rounds))
        print(source, json.dumps(fit.to_json(), indent=1), sep="\n")
        print("\nprocesses  tokens  work of   measured s  foretold s   error")
        rows = []
        for instances in (2, 4):
            for tokens in options.tokens:
                *measured, slots = run(folder, instances, tokens, options.rounds)
                for who, one, other in zip(("home", "lenders"), measured, foretold(fit, instances, slots, tokens), strict=True):
                    rows.append({"processes": instances, "tokens": tokens, "who": who, "measured": one, "foretold": other})
                    print(f"{instances:>9} {tokens:>7,}  {who:<8} {one:>11.3f} {other:>11.3f} {other / one - 1:>+7.0%}", flush=True)
        errors = sorted(abs(row["foretold"] / row["measured"] - 1) for row in rows)
        print(f"error: median {statistics.median(errors):.0%}, largest {errors[-1]:.0%}")
        options.out.write_text(json.dumps({**fit.to_json(), "date": str(date.today()), "validation": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
