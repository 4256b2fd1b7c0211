"""kill -9 at fifty moments of a sweep: nothing is lost, nothing is asked twice beyond what was in flight."""

import random
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from tests.chat_server import Answer, Asked, ChatServer, completion
from tests.run.command import answered, experiment, found, here, lines, prompts, write_config
from tests.run.forks import Forks

KILLS = 50
CONCURRENCY = 16


def test_fifty_kills_lose_no_trial_and_repeat_only_what_was_in_flight(folder: Path) -> None:
    """Every trial is recorded once; a prompt is asked again only after a kill that met it in flight; the table is that of a quiet run."""
    config = write_config(folder, lengths=[300, 400, 500], depths=[0, 0.25, 0.5, 0.75, 1], reshuffles=60)
    table = prompts(experiment(config))
    assert len(table) == 900
    draw = random.Random(3)

    def answer(asked: Asked) -> Answer:
        trial = table[asked.id]
        right = (trial.reshuffle + round(4 * trial.depths[0])) % 3 > 0 or trial.length == 300
        return completion(found(asked) if right else "Nobody knows.", delay=0.002 + 0.02 * (asked.number % 7) / 7)

    words = ("--concurrency", str(CONCURRENCY), "--out", "run")
    allowed: Counter[str] = Counter()
    with ChatServer(answer) as server, Forks(folder / "told.txt") as forks:
        for kill in range(KILLS):
            server.session = kill
            before = len(server.log)
            process = forks.start("sweep", config, "--base-url", server.url, *words)
            try:
                asks = draw.randint(0, 26)
                assert server.wait_for(before + asks, alive=process.running), forks.log.read_text()
                time.sleep(draw.random() * 0.02)
            finally:
                process.kill()
                process.wait()
            recorded = {line["key"] for line in lines(folder / "run")}
            asked_now = {asked.id for asked in server.log if asked.session == kill}
            in_flight = {id_ for id_ in asked_now if table[id_].key not in recorded}
            assert len(in_flight) <= CONCURRENCY
            allowed.update(in_flight)
        assert len(recorded) < 900
        server.session = KILLS
        assert forks.start("sweep", config, "--base-url", server.url, *words).wait() == 0, forks.log.read_text()
        over = {id_: count for id_, count in server.times_asked.items() if count > 1 + allowed[id_]}
        assert not over
        assert set(server.times_asked) == set(table)

        kept = answered(folder / "run")
        assert len(kept) == len(set(kept)) == len(lines(folder / "run")) == 900
        assert {key for _, key in kept} == {trial.key for trial in table.values()}

        server.answer = lambda asked: replace(answer(asked), delay=0.0)
        quiet = here("sweep", config, "--base-url", server.url, "--concurrency", "64", "--out", "quiet")
        assert quiet.returncode == 0, quiet.stderr
    for name in ("cells.csv", "summary.json"):
        assert (folder / "run" / name).read_bytes() == (folder / "quiet" / name).read_bytes()
