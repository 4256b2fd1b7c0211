"""The client at concurrency 64 against an instant loopback server: requests a second and CPU a request, every record stored durably.

    python benchmarks/client.py [--requests 3000] [--lengths 2k,128k] [--rounds 3]

Target for prompts of 2k tokens: at most 0.5 ms of client CPU a request and at least 800 requests/s on two cores. Beside it, by turns
in the same run and against the same server: lm-eval's own client (`make .venv-lmeval/installed`), which keeps its answers in a list, and
bare aiohttp, which only encodes and decodes JSON and stands for JSON and sockets. Neither makes a prompt, scores or stores. CPU is that
of the client's own process, all threads, user and system; figures are medians of the rounds, ratios are medians of the rounds' ratios.
"""

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from niah.config import load_experiment, parse_length
from niah.run import sweep
from niah.trial import Record

CHARACTERS_A_TOKEN = 4.2
LM_EVAL = Path(__file__).parents[1] / ".venv-lmeval" / "bin" / "python"


class Clock:
    """A progress that tells nobody, and takes the time between the first request and the last record on the disk."""

    def begin(self, model: str, total: int, done: int) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def watch(self, spending: object) -> None: ...
    def recorded(self, record: Record) -> None: ...
    def note(self, text: str) -> None: ...

    def end(self) -> None:
        self.wall, self.cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu


def niah(url: str, length: int, requests: int) -> tuple[float, float]:
    """Requests a second and CPU ms a request of a sweep."""
    depths = [step / 9 for step in range(10)]
    given = {"models": ["server/x"], "base_url": url, "lengths": [length], "depths": depths, "reshuffles": max(1, requests // 10)}
    experiment = load_experiment("quickstart", {**given, "corpora": ["builtin/wikipedia"]})
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        swept = sweep.sweep(experiment, Path(folder), clock)
    assert not swept.missing, swept
    assert not swept.failed, swept
    return experiment.reshuffles * 10 / clock.wall, 1000 * clock.cpu / (experiment.reshuffles * 10)


async def bare(url: str, characters: int, requests: int) -> tuple[float, float]:
    """The same number of requests of the same size by aiohttp alone, JSON encoded and decoded each time as niah does."""
    import aiohttp
    from pydantic_core import to_json

    text = filler(characters)
    left = iter(range(requests))

    async def work(session: Any) -> None:
        for _ in left:
            body = to_json({"model": "x", "messages": [{"role": "user", "content": text}]})
            async with session.post(f"{url}/chat/completions", data=body, headers={"content-type": "application/json"}) as answer:
                json.loads(await answer.read())

    wall, cpu = time.perf_counter(), time.process_time()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(work(session) for _ in range(64)))
    return requests / (time.perf_counter() - wall), 1000 * (time.process_time() - cpu) / requests


def lm_eval(url: str, characters: int, requests: int) -> tuple[float, float]:
    """The same by lm-eval, in its own environment and process."""
    command = [LM_EVAL, Path(__file__).with_name("lm_eval_client.py"), url, str(characters), str(requests)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"lm-eval's client failed: {done.stderr[-1000:]}")
    rate, cpu = done.stdout.split()[-2:]
    return float(rate), float(cpu)


def filler(characters: int) -> str:
    return ("word " * (characters // 5 + 1))[:characters]


def compare(url: str, length: int, requests: int, rounds: int) -> None:
    """Measure all clients by turns and print what came out."""
    clients: dict[str, Callable[[], tuple[float, float]]] = {
        "niah": lambda: niah(url, length, requests),
        "lm-eval": lambda: lm_eval(url, int(length * CHARACTERS_A_TOKEN), requests),
        "bare aiohttp": lambda: asyncio.run(bare(url, int(length * CHARACTERS_A_TOKEN), requests)),
    }
    if not LM_EVAL.exists():
        del clients["lm-eval"]
    measured = [{name: client() for name, client in clients.items()} for _ in range(rounds)]
    for name in clients:
        rate, cpu = (statistics.median(column) for column in zip(*(each[name] for each in measured), strict=True))
        print(f"{length:>9,} tokens  {name:13} {rate:>7,.0f} requests/s  {cpu:>7.3f} ms CPU a request", flush=True)
    for name in list(clients)[1:]:
        ratio = statistics.median(each["niah"][1] / each[name][1] for each in measured)
        print(f"{length:>9,} tokens  niah takes {ratio:.2f} times the CPU of {name}", flush=True)
    own = statistics.median(1 - each["bare aiohttp"][1] / each["niah"][1] for each in measured)
    print(f"{length:>9,} tokens  of niah's CPU time {own:.0%} is not JSON and sockets", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--lengths", default="2k,128k")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not LM_EVAL.exists():
        print("lm-eval is not measured: its environment is not there (make .venv-lmeval/installed)", flush=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, str(Path(__file__).with_name("instant_server.py")), str(port)])
    time.sleep(1)
    try:
        for length in map(parse_length, options.lengths.split(",")):
            requests = max(100, min(options.requests, options.requests * 4000 // length))
            compare(f"http://127.0.0.1:{port}/v1", length, requests, options.rounds)
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
