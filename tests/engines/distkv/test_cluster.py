"""Instances on a Ray cluster answer as one model does, whoever of them is killed meanwhile. All of it on one cluster of two "machines"."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from niah.engines import EngineError, Generation, Step
from niah.engines.distkv.messages import Candidate, MoveKVCache, Recall
from niah.run.store import read
from tests.engines.checkpoints import tiny
from tests.engines.distkv.asking import BLOCK, GREEDY, TOKEN_BYTES, Once, ask, ids, made
from tests.run.command import cells, here, write_config

ray: Any = pytest.importorskip("ray", reason="Ray is not installed: pip install 'niah[ray]'")
from niah.engines.distkv.ray_engine import RayEngine  # noqa: E402

__all__ = ["tiny"]
pytestmark = pytest.mark.timeout(1200)
TOKENS, INSTANCES, CHUNK = 160, 3, 4
LONG = ids(360, 5)
"""Takes all three instances."""


def patiently(start: Callable[[], Any]) -> Any:
    """Ray gives a machine half a minute to start, which is too little for one that is very busy."""
    for _ in range(4):
        try:
            return start()
        except Exception as error:  # Ray raises that very class
            if "timed out during startup" not in str(error):
                raise
    return start()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two "machines" on this one; what is started here ends here."""
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "OMP_NUM_THREADS": "1",
    }.items():
        patch.setenv(name, value)
    machines = {"object_store_memory": 80 << 20, "include_dashboard": False, "num_cpus": 3}
    made = patiently(lambda: Cluster(initialize_head=True, head_node_args=machines))
    made.second = patiently(lambda: made.add_node(num_cpus=3, object_store_memory=80 << 20))
    patch.setattr("niah.engines.distkv.ray_engine.POLL_SECONDS", 0.01)
    yield made
    ray.shutdown()
    made.shutdown()
    patch.undo()


@pytest.fixture(scope="module")
def engine(tiny: Path, cluster: Any) -> Iterator[RayEngine]:
    engine = RayEngine(
        tiny, cluster=cluster.address, instances=INSTANCES, kv_memory_bytes=TOKENS * TOKEN_BYTES, threads=1,
        block_tokens=BLOCK, chunk_tokens=CHUNK, device="cpu",
    )  # fmt: skip
    asked(engine, LONG[:9], 1)  # starts the instances
    yield engine
    engine.close()
    assert engine.service is None
    until = time.monotonic() + 60
    while left := ray.util.list_named_actors(all_namespaces=True):
        assert time.monotonic() < until, left
        time.sleep(0.2)


@pytest.fixture(scope="module")
def right(tiny: Path) -> Callable[[Sequence[int], int], tuple[int, ...]]:
    """What one model in this process answers."""
    plain, known = made(tiny), dict[tuple[int, ...], tuple[int, ...]]()

    def answer(prompt: Sequence[int], count: int) -> tuple[int, ...]:
        key = (*prompt, -count)
        if key not in known:
            known[key] = ask(plain, prompt, count).ids
        return known[key]

    return answer


def asked(engine: RayEngine, prompt: Sequence[int], count: int = 12, report: Callable[[Step], None] = lambda _: None) -> Generation:
    return engine.generate([prompt], count, stop_ids=(), sampling=GREEDY, report=report)


def state(engine: RayEngine) -> Any:
    assert engine.service
    return engine.service.state()


def call(engine: RayEngine, name: str, method: str, *arguments: Any, group: str = "watch") -> Any:
    assert engine.service
    actor = engine.service.actors[name]
    return ray.get(getattr(actor, method).options(concurrency_group=group).remote(*arguments), timeout=300)


def alive(engine: RayEngine) -> dict[str, int]:
    """The process of each instance, once all are back and wait for a prompt."""
    until = time.monotonic() + 600
    while time.monotonic() < until:
        with contextlib.suppress(ray.exceptions.RayError):
            pids = {name: call(engine, name, "about").pid for name in ("0", "1", "2")}
            if {row.instance for row in state(engine).ledger} == pids.keys() == {*engine._desk.idle}:
                return pids
        time.sleep(0.5)
    raise AssertionError("an instance did not come back")


def assert_whole(engine: RayEngine) -> None:
    """Nothing leaks: when nothing is kept for later every slot of every instance is free."""
    alive(engine)
    until = time.monotonic() + 120
    while time.monotonic() < until:
        for name in ("0", "1", "2"):
            while call(engine, name, "evict", group="evict"):
                pass
        ledger = state(engine).ledger
        if all(row.free_slots == row.total_slots == TOKENS // BLOCK and not row.debtors for row in ledger) and len(ledger) == INSTANCES:
            return
        time.sleep(0.5)
    raise AssertionError(f"not free: {state(engine).ledger}")


def disturbed(engine: RayEngine, right: Any, prompt: Sequence[int], count: int, report: Once) -> None:
    """Ask until it was disturbed: steps are looked at from time to time, and a whole answer may lie between two looks."""
    for _ in range(30):
        assert_whole(engine)
        assert asked(engine, prompt, count, report).ids == right(prompt, count)
        if report.done:
            return
    raise AssertionError(f"never seen: {report.phase} {report.tokens}")


def home_of(engine: RayEngine) -> str:
    """Who is home of the prompt in work."""
    (home,) = {str(number) for number in range(INSTANCES)} - {*engine._desk.idle}
    return home


def test_answers_are_those_of_one_model_and_each_instance_is_a_home(engine: RayEngine, right: Any):
    assert_whole(engine)  # nothing is kept of what started the instances
    first = asked(engine, LONG)
    assert first.ids == right(LONG, 12)
    assert first.measured["instances"] == INSTANCES
    assert (first.measured["local_blocks"], first.measured["remote_blocks"]) == (10, 14)
    assert first.measured["moved_bytes"] > 0
    prompts = [ids(60 + 30 * number, number) for number in range(6)]
    steps: list[Step] = []
    with ThreadPoolExecutor(INSTANCES) as pool:
        answers = list(pool.map(lambda prompt: asked(engine, prompt, report=steps.append), prompts))
    assert [answer.ids for answer in answers] == [right(prompt, 12) for prompt in prompts]
    homes = {row.instance for row in state(engine).ledger if row.total_slots - row.free_slots - sum(row.debtors.values())}
    assert len(homes) > 1
    asked(engine, prompts[5])  # one that was read later may have taken its place
    again = asked(engine, prompts[5])
    assert (again.ids, again.reused_tokens) == (right(prompts[5], 12), 208)
    assert_whole(engine)


def test_instances_are_spread_over_machines_and_shown(engine: RayEngine, cluster: Any):
    from niah.engines.distkv.cluster import map_of, services, told

    (found,) = services(cluster.address)
    assert {row.instance for row in found.ledger} == {"0", "1", "2"}
    assert len({facts.node for facts in found.facts.values()}) == 2
    assert told(found)[0] == "tiny: 3 instances with 0.1 MB each, in blocks of 16 tokens"
    asked(engine, LONG)
    lines = map_of(state(engine)).splitlines()
    assert sum("lent to" in line for line in lines) == 2
    assert sum("borrowed" in line for line in lines) == 1


def test_status_shows_who_holds_what_to_whoever_asks(engine: RayEngine, cluster: Any):
    asked(engine, LONG)
    state(engine)  # whose heartbeats tell of it
    done = here("distkv", "status", "--cluster", cluster.address)
    assert done.returncode == 0, done.stderr
    first, *machines = [line for line in done.stdout.splitlines() if "instances" in line]
    assert (first, len(machines)) == ("tiny: 3 instances with 0.1 MB each, in blocks of 16 tokens", 2)
    assert sum("borrowed" in line for line in done.stdout.splitlines()) == 1
    assert sum("lent to" in line for line in done.stdout.splitlines()) == 2


def test_a_text_that_fits_nowhere_says_so(engine: RayEngine):
    with pytest.raises(EngineError, match=r"free on 3 instances of 0\.1 MB") as caught:
        asked(engine, ids(500))
    assert caught.value.kind == "memory"
    assert_whole(engine)


def test_prompts_that_fit_only_one_after_the_other_are_all_answered(engine: RayEngine, right: Any):
    prompts = [ids(300 + number, number) for number in range(3)]
    with ThreadPoolExecutor(INSTANCES) as pool:
        answers = list(pool.map(lambda prompt: asked(engine, prompt).ids, prompts))
    assert answers == [right(prompt, 12) for prompt in prompts]


def test_whoever_is_told_may_break_off(engine: RayEngine, right: Any):
    class EnoughError(BaseException):
        pass

    def enough() -> None:
        raise EnoughError

    with pytest.raises(EnoughError):
        disturbed(engine, right, ids(200, 3), 200, Once("decode", 1, enough))
    assert_whole(engine)
    assert asked(engine, LONG).ids == right(LONG, 12)


def test_blocks_move_in_the_background_and_come_home(engine: RayEngine, right: Any):
    prompt = ids(100, 7)  # with its answer it just fits at home

    def away() -> None:
        home = home_of(engine)
        other = next(row for row in state(engine).ledger if row.instance != home)
        request = call(engine, home, "requests")[-1]
        call(engine, home, "order", MoveKVCache(home, request, 4, Candidate(other.instance, other.epoch, 0)))

    def moved() -> float:
        return sum(call(engine, name, "spent")["moved_blocks"] for name in ("0", "1", "2"))

    before, tries = moved(), 0
    while moved() < before + 4:  # what is ordered near the end of an answer is passed over
        disturbed(engine, right, prompt, 55, Once("decode", 1, away))
        tries += 1
        assert tries < 20
    until = time.monotonic() + 120
    while any(row.debtors for row in state(engine).ledger) and time.monotonic() < until:
        time.sleep(0.5)  # the gManager wishes that blocks come home where there is room
    assert not any(row.debtors for row in state(engine).ledger)
    assert asked(engine, prompt, 55).ids == right(prompt, 55)
    assert_whole(engine)


@pytest.mark.parametrize(("who", "phase", "tokens", "count"), [("home", "decode", 2, 100), ("lender", "prefill", 180, 12)])
def test_a_killed_instance_changes_no_token(  # noqa: PLR0917
    engine: RayEngine, right: Any, phase: str, tokens: int, count: int, who: str
):  # fmt: skip
    pids, prompt = alive(engine), LONG if phase == "prefill" else LONG[:250]
    victims: list[str] = []

    def kill() -> None:
        home = home_of(engine)
        lender = next(row.instance for row in state(engine).ledger if home in row.debtors)
        victims.append(home if who == "home" else lender)
        os.kill(pids[victims[0]], signal.SIGKILL)

    disturbed(engine, right, prompt, count, Once(phase, tokens, kill))
    assert alive(engine)[victims[0]] != pids[victims[0]]
    assert_whole(engine)


def test_a_killed_gmanager_changes_no_token_and_knows_all_again(engine: RayEngine, right: Any):
    before = state(engine)

    def kill() -> None:
        os.kill(before.pid, signal.SIGKILL)

    disturbed(engine, right, LONG, 12, Once("prefill", 180, kill))
    alive(engine)
    after = state(engine)
    assert after.pid != before.pid
    assert {(row.instance, row.epoch) for row in after.ledger} == {(row.instance, row.epoch) for row in before.ledger}
    assert_whole(engine)


@pytest.mark.parametrize("who", ["source", "destination"])
def test_an_instance_may_be_killed_in_the_middle_of_a_move(engine: RayEngine, right: Any, who: str):
    pids, prompt, victims = alive(engine), ids(250, 9), list[str]()

    def kill() -> None:
        """Blocks are to come home from a lender that does not answer any more, or to go to it; then it dies, or the one at home does."""
        home = home_of(engine)
        lender = next(row for row in state(engine).ledger if home in row.debtors)
        victims.append(lender.instance if who == "source" else home)
        os.kill(pids[lender.instance], signal.SIGSTOP)
        call(engine, home, "order", Recall(home, lender.instance, 3))
        time.sleep(1)
        os.kill(pids[victims[0]], signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[lender.instance], signal.SIGCONT)

    disturbed(engine, right, prompt, 100, Once("decode", 1, kill))
    assert_whole(engine)


def test_a_sweep_whose_second_machine_is_killed_has_the_same_table(
    engine: RayEngine, cluster: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    engine.close()
    monkeypatch.chdir(tmp_path)
    config = write_config(
        tmp_path, models=[f"distkv/{tiny}"], lengths=[150, 300], depths=[0.2, 0.9], reshuffles=6, cue="user",
        sampling={"max_output_tokens": 8},
    )  # fmt: skip
    memory = ("--instances", "2", "--kv-memory", f"{0.001 * 576 * TOKEN_BYTES}kB")
    undisturbed = here("sweep", config, "--out", "one", *memory)
    assert undisturbed.returncode == 0, undisturbed.stderr
    killed: list[bool] = []

    def kill() -> None:
        records = tmp_path / "two" / "trials.jsonl"
        while not records.exists() or len(records.read_text().splitlines()) < 3:
            time.sleep(0.05)
        killed.append(len(records.read_text().splitlines()) < 24)
        os.kill(cluster.second.all_processes["raylet"][0].process.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    swept = here("sweep", config, "--out", "two", *memory, "--cluster", cluster.address)
    assert swept.returncode == 0, swept.stderr
    thread.join(60)
    assert killed == [True]
    assert "who holds what of the KV cache" in swept.stdout
    one, two = ({record.trial.key: record for record in read(tmp_path / name)} for name in ("one", "two"))
    assert len(one) == 24
    assert one.keys() == two.keys()
    for key, record in one.items():
        other = two[key]
        assert record.reply
        assert other.reply
        assert (other.reply.text, other.scores) == (record.reply.text, record.scores)
        assert set(other.reply.measured or ()) == set(record.reply.measured or ())
    assert list(cells(tmp_path / "one")) == list(cells(tmp_path / "two"))
