"""The simulator: the same for the same seed, whole in the end, right in cases that can be reckoned by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from niah.cli import app
from niah.engines.distkv.blocks import Memory
from niah.engines.distkv.performance import ASSUMED as SPEED
from niah.engines.distkv.performance import LINKS, Fitted, Link
from niah.engines.distkv.scenario import POLICIES, Outcome, Policy, Scenario
from niah.engines.distkv.simulate import simulate
from niah.engines.distkv.trace import Arrival, Traffic, arrivals
from niah.errors import UsageError

TRAFFIC = Traffic(requests=96, requests_per_second=3.0, longest_tokens=200_000)
SCENARIO = Scenario(instances=12, traffic=TRAFFIC, memory=Memory(slots=30, block_tokens=1024, spare_slots=1))
SMALL = replace(SCENARIO, instances=2, memory=Memory(slots=4, block_tokens=100))


@pytest.fixture(scope="module", params=POLICIES)
def outcome(request: pytest.FixtureRequest) -> Outcome:
    return simulate(replace(SCENARIO, policy=request.param))


def test_the_same_seed_gives_the_same(outcome: Outcome):
    assert simulate(replace(SCENARIO, policy=outcome.policy)) == outcome
    assert simulate(replace(SCENARIO, policy=outcome.policy, seed=1)).waits_seconds != outcome.waits_seconds


def test_every_request_ends_and_every_block_returns(outcome: Outcome):
    assert outcome.served + outcome.unserved == len(outcome.waits_seconds) + outcome.unserved == TRAFFIC.requests
    assert outcome.left_blocks == 0
    assert all(wait > 0 for wait in outcome.waits_seconds)


def test_what_is_served_is_what_came(outcome: Outcome):
    came = arrivals(TRAFFIC, 0)
    most = SCENARIO.memory.slots * SCENARIO.memory.block_tokens
    if outcome.policy == "isolated":
        assert outcome.unserved == sum(each.prompt_tokens > most for each in came) > 0
    else:
        assert outcome.longest_served_tokens == max(each.prompt_tokens for each in came)
        assert outcome.answer_tokens == sum(each.answer_tokens for each in came)


def test_borrowing_serves_longer_prompts_than_instances_alone():
    alone, lent = (simulate(replace(SCENARIO, policy=policy)) for policy in ("isolated", "borrow"))
    assert alone.longest_served_tokens <= SCENARIO.memory.slots * SCENARIO.memory.block_tokens < lent.longest_served_tokens
    assert alone.asks == alone.remote_token_steps == 0 < lent.remote_token_steps < lent.token_steps


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 900), st.integers(1, 90)), max_size=25),
    st.sampled_from(POLICIES),
    st.integers(0, 3),
    st.booleans(),
)
def test_tight_memory_never_stalls(drawn: list[tuple[float, int, int]], policy: Policy, cap: int, spare: bool):
    """With instances of four blocks, requests wait, borrow, are preempted; each ends, whatever comes."""
    memory = Memory(slots=4, block_tokens=100, lend_most=cap, spare_slots=int(spare))
    ended = simulate(replace(SMALL, instances=3, policy=policy, memory=memory), [Arrival(*each) for each in sorted(drawn)])
    assert ended.served + ended.unserved == len(drawn)
    assert ended.left_blocks == 0


def test_one_request_by_hand():
    ended = simulate(replace(SMALL, policy="isolated"), [Arrival(5.0, 250, 3)])
    read = 250 * SPEED.prefill_token_seconds + 250 * 250 / 2 * SPEED.prefill_pair_seconds
    step = SPEED.step_seconds + SPEED.request_seconds + 300 * SPEED.token_seconds  # three blocks, the last not full
    assert ended.waits_seconds == pytest.approx([read])
    assert ended.seconds == pytest.approx(5.0 + read + 3 * step)
    assert ended.token_steps == 3 * 300


def test_a_request_over_two_instances_by_hand():
    """Six blocks, four at home: attention on both sides at once, the far side with the way there and back."""
    ended = simulate(replace(SMALL, policy="borrow"), [Arrival(0.0, 560, 2)])
    link = LINKS["nvlink"]
    here = 100 * (560 + 460 + 360 + 260 - 4 * 50) * SPEED.prefill_pair_seconds  # each block with what comes after it
    there = 160 * 160 / 2 * SPEED.prefill_pair_seconds
    passing = link.seconds + 160 * (SPEED.query_bytes + SPEED.kv_bytes_per_token) / link.bytes_per_second
    read = 560 * SPEED.prefill_token_seconds + max(here, there, passing)
    near = 400 * SPEED.token_seconds
    sent = SPEED.query_bytes + SPEED.kv_bytes_per_token  # the last block, and so the new tokens' keys, lie there
    far = 200 * SPEED.token_seconds + 3 * SPEED.layers * link.seconds + sent / link.bytes_per_second
    step = SPEED.step_seconds + SPEED.request_seconds + max(near, far)
    assert ended.waits_seconds == pytest.approx([read])
    assert ended.seconds == pytest.approx(read + 2 * step)
    assert (ended.asks, ended.refusals, ended.remote_token_steps) == (1, 0, 2 * 200)
    way = far - 200 * SPEED.token_seconds
    step = SPEED.step_seconds + SPEED.request_seconds
    home = 560 * SPEED.prefill_token_seconds + here + passing + 2 * (step + near + way)
    assert sorted(ended.work_seconds.values()) == pytest.approx(sorted([home, there + passing + 2 * far]))


def test_what_fits_nowhere_is_unserved():
    requests = [Arrival(0.0, 401, 1), Arrival(0.0, 801, 1), Arrival(0.0, 100, 1)]
    assert simulate(replace(SMALL, policy="isolated"), requests).unserved == 2
    assert simulate(replace(SMALL, policy="borrow"), requests).unserved == 1
    assert simulate(replace(SMALL, policy="borrow", memory=replace(SMALL.memory, lend_most=0)), requests).unserved == 2


def test_debts_are_called_home_and_circles_undone():
    """Where instances are tight and answers long, everybody borrows from everybody."""
    drawn = Random(1)
    requests = [Arrival(n / 5, drawn.randint(100, 1500), drawn.randint(200, 900)) for n in range(120)]
    memory = Memory(slots=16, block_tokens=100, spare_slots=1)
    scenario = replace(SCENARIO, instances=5, memory=memory, round_seconds=1.0, heartbeat_seconds=0.1)
    lent, tidied = (simulate(replace(scenario, policy=policy), requests) for policy in POLICIES[2:4])
    assert lent.served == tidied.served == 120
    assert lent.remote_token_steps / lent.token_steps > tidied.remote_token_steps / tidied.token_steps > 0
    assert tidied.recalled_blocks > tidied.circle_blocks > 0 == lent.recalled_blocks


def test_lengths_are_drawn_from_one_to_the_longest():
    drawn = arrivals(replace(TRAFFIC, requests=5000, longest_tokens=60_000), 3)
    lengths = sorted(each.prompt_tokens for each in drawn)
    assert 1 <= lengths[0] < 10
    assert 30_000 < lengths[-1] <= 60_000
    assert [each.seconds for each in drawn] == sorted(each.seconds for each in drawn)
    assert drawn[-1].seconds == pytest.approx(5000 / TRAFFIC.requests_per_second, rel=0.1)


def test_the_command_labels_what_it_prints_and_draws(tmp_path: Path):
    options = ["--instances", "4", "--requests", "4", "--policy", "isolated", "--policy", "borrow+dgfm", "--plot", str(tmp_path / "s.png")]
    result = CliRunner().invoke(app, ["distkv", "simulate", *options])
    assert result.exit_code == 0
    assert "simulated: 4 instances, 16 requests" in result.stdout
    assert "speeds assumed" in result.stdout
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


MEASURED = Fitted(replace(SPEED, step_seconds=0.5, kind="measured", source="a stopwatch"), Link(1e-3, 1e9))


def test_measured_speeds_come_from_a_file(tmp_path: Path):
    path = tmp_path / "fitted.json"
    path.write_text(json.dumps(MEASURED.to_json() | {"date": "today"}))
    assert Fitted.from_json(json.loads(path.read_text())) == MEASURED
    result = CliRunner().invoke(
        app, ["distkv", "simulate", "--instances", "2", "--requests", "2", "--policy", "borrow", "--fitted", str(path)]
    )
    assert result.exit_code == 0
    assert "speeds measured: a stopwatch" in result.stdout
    assert "link as measured" in result.stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no measured speeds"),
        ("[]", "holds no measured speeds"),
        ({"link": None}, "link.seconds: None"),
        ({"performance": MEASURED.to_json()["performance"] | {"step_seconds": -1}}, "performance.step_seconds: -1"),
        ({"performance": MEASURED.to_json()["performance"] | {"layers": "4"}}, "performance.layers: '4'"),
        ({"performance": MEASURED.to_json()["performance"] | {"kind": "guessed"}}, "kind 'guessed'"),
        ({"link": {"seconds": 0, "bytes_per_second": 0}}, "a speed without bounds"),
    ],
)
def test_a_file_without_measured_speeds_is_refused(tmp_path: Path, content: str | dict[str, object], said: str):
    path = tmp_path / "fitted.json"
    path.write_text(content if isinstance(content, str) else json.dumps(MEASURED.to_json() | content))
    with pytest.raises(UsageError) as caught:
        CliRunner().invoke(app, ["distkv", "simulate", "--fitted", str(path)], catch_exceptions=False)
    assert str(caught.value).startswith(f"--fitted: {path} holds no measured speeds")
    assert said in str(caught.value)
