"""The client at concurrency 64 against an instant loopback server: requests a second and CPU a request, every record stored durably.

    python benchmarks/client.py [--requests 3000] [--lengths 2k,128k] [--rounds 3]

Target for prompts of 2k tokens: at most 0.5 ms of client CPU a request and at least 800 requests/s on two cores. Beside it, in the
same run and against the same server, bare aiohttp with ready-made bodies, which makes no prompt, scores and stores nothing. (Elsewhere
measured on such a machine: lm-eval's client 0.30 ms and 772 to 1,391 requests/s storing nothing, one shared httpx pool 3.3 ms.)
For long prompts it prints the share of the CPU time that is not JSON and sockets.
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
from pathlib import Path
from typing import Any

from niah.config import load_experiment, parse_length
from niah.run import sweep
from niah.trial import Record


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
    """The same number of requests of the same size by aiohttp alone, JSON encoded and decoded each time."""
    import aiohttp

    text = ("word " * (characters // 5 + 1))[:characters]
    left = iter(range(requests))

    async def work(session: Any) -> None:
        for _ in left:
            body = json.dumps({"model": "x", "messages": [{"role": "user", "content": text}]}).encode()
            async with session.post(f"{url}/chat/completions", data=body, headers={"content-type": "application/json"}) as answer:
                json.loads(await answer.read())

    wall, cpu = time.perf_counter(), time.process_time()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(work(session) for _ in range(64)))
    return requests / (time.perf_counter() - wall), 1000 * (time.process_time() - cpu) / requests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--lengths", default="2k,128k")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, str(Path(__file__).with_name("instant_server.py")), str(port)])
    time.sleep(1)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for length in map(parse_length, options.lengths.split(",")):
            requests = max(100, min(options.requests, options.requests * 4000 // length))
            pairs = [(niah(url, length, requests), asyncio.run(bare(url, int(length * 4.2), requests))) for _ in range(options.rounds)]
            for name, rows in (("niah", [pair[0] for pair in pairs]), ("bare aiohttp", [pair[1] for pair in pairs])):
                rate, cpu = (statistics.median(column) for column in zip(*rows, strict=True))
                print(f"{length:>9,} tokens  {name:13} {rate:>7,.0f} requests/s  {cpu:>7.3f} ms CPU a request", flush=True)
            own = statistics.median(1 - pair[1][1] / pair[0][1] for pair in pairs)
            print(f"{length:>9,} tokens  of niah's CPU time {own:.0%} is not JSON and sockets", flush=True)
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
