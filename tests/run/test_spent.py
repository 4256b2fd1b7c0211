"""What a run has cost, in its summary: live and in batches, cached tokens included; unknown is never 0."""

import json
from pathlib import Path

import pytest

from niah.backends.models import capabilities, cost_dollars
from niah.run import session
from niah.run.collecting import Pace
from niah.run.limits import Patience
from niah.run.plan import Plan, gather
from niah.run.store import read
from niah.trial import Prompt, Usage
from tests.batch_server import KEYS, BatchServer
from tests.chat_server import Answer, Asked, ChatServer, completion
from tests.run.batches import read as answer_to
from tests.run.command import experiment, found, here, summary, write_config

KEY = "sk-test-0123456789abcdef"
PRICES = '[models."server/m"]\nprice = {input = 100.0, output = 400.0, cache_read = 10.0, cache_write = 125.0}\ncache_min_tokens = 100\n'
LIKE = '[models."openai/m"]\nlike = "openai/gpt-4.1"\n[models."anthropic/m"]\nlike = "anthropic/claude-haiku-4-5"\n'


@pytest.fixture
def priced(folder: Path) -> dict[str, str]:
    (folder / "prices.toml").write_text(PRICES + LIKE, encoding="utf-8")
    return {"NIAH_MODELS": str(folder / "prices.toml")}


class Caching:
    """A server that reports a share of each prompt as cached, but for the first one, and keeps the bill."""

    def __init__(self, share: float):
        self.share, self.dollars, self.given, self.cached = share, 0.0, 0, 0

    def __call__(self, asked: Asked) -> Answer:
        given = len(asked.user) // 4
        cached = int(given * self.share) if asked.number else 0
        self.dollars += (100 * (given - cached) + 10 * cached + 400 * 9) / 1e6
        self.given, self.cached = self.given + given, self.cached + cached
        details = {"cached_tokens": cached}
        return completion(found(asked), usage={"prompt_tokens": given, "completion_tokens": 9, "prompt_tokens_details": details})


def sweep(folder: Path, priced: dict[str, str], server: Caching, **fields: object) -> str:
    config = write_config(folder, lengths=[500, 900], depths=[0, 0.5, 1], reshuffles=2, **fields)
    with ChatServer(server) as there:
        done = here("sweep", config, "--base-url", there.url, "--out", "run", "--yes", **priced)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("share", "short"), [(0.7, False), (0.05, True)])
def test_the_summary_says_what_was_spent_and_what_came_from_the_cache(
    folder: Path, priced: dict[str, str], share: float, short: bool
) -> None:
    """The sum is the server's own bill; the planned share stands beside the reported one, with a word where that falls short."""
    server = Caching(share)
    told = sweep(folder, priced, server)
    cost = summary(folder / "run")["server/m"]["cost"]
    assert cost["dollars"] == pytest.approx(server.dollars, abs=1e-6)
    assert (cost["answers"], cost["batch_answers"], cost["output_tokens"]) == (12, 0, 12 * 9)
    assert (cost["input_tokens"], cost["cached_tokens"]) == (server.given, server.cached)
    assert cost["cached_share"] == pytest.approx(server.cached / server.given, abs=1e-6)
    # of a reshuffle's 4,200 tokens: 500 + 450 + 250 in front of needles that are not the deepest one's
    assert cost["planned_cached_share"] == pytest.approx((500 + 450 + 250) / 4200, abs=1e-6)
    assert summary(folder / "run")["total"]["cost"]["dollars"] == cost["dollars"]
    row = next(line for line in told.splitlines() if "server/m" in line and "29%" in line)
    assert f"${server.dollars:.4f}" in row
    assert f" {cost['cached_share']:.0%} " in row
    assert ("where the plan reckoned with 29%" in told) is short
    before = summary(folder / "run")
    assert here("report", "run", **priced).returncode == 0
    assert summary(folder / "run") == before


def test_an_unknown_price_is_unknown_also_in_sum(folder: Path) -> None:
    """A priced and an unpriced model: no sum is told; a local reader costs nothing and is known to."""
    config = write_config(folder, models=["server/m", "baseline/bm25"], lengths=[300], reshuffles=1)
    with ChatServer(found) as there:
        done = here("sweep", config, "--base-url", there.url, "--out", "run")
    assert done.returncode == 0, done.stderr
    told = summary(folder / "run")
    assert told["server/m"]["cost"]["dollars"] is None
    assert told["baseline/bm25"]["cost"]["dollars"] == 0
    assert told["total"]["cost"]["dollars"] is None
    assert [line.split()[3] for line in done.stdout.splitlines() if " all " in line and "unknown" in line] == ["unknown"]
    local = here("sweep", config, "--model", "baseline/bm25", "--out", "local")
    assert "output tokens" not in local.stdout


def test_money_for_lost_answers_is_told_apart(folder: Path, priced: dict[str, str]) -> None:
    server = Caching(0.5)
    sweep(folder, priced, server)
    (folder / "run" / "lost.json").write_text(json.dumps({"dollars": 0.25, "tokens": 900}), encoding="utf-8")
    told = here("report", "run", **priced).stdout
    assert "up to $0.2500 more may have been charged for answers that never came" in told
    cost = summary(folder / "run")["total"]["cost"]
    assert (cost["lost_dollars"], cost["dollars"]) == (0.25, pytest.approx(server.dollars, abs=1e-6))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace(first=0.01, longest=0.03, grace=0.0, patience=Patience(base_seconds=0.002, longest_seconds=0.01))
    monkeypatch.setattr(session, "Pace", lambda: pace)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_batches_are_counted_at_their_own_prices(folder: Path, priced: dict[str, str], provider: str) -> None:
    """The half of a live sweep, in the summary and against the cap; what was asked live in the same run counts as that."""
    config = write_config(folder, reshuffles=2)
    with BatchServer(answer_to) as server:
        words = ("sweep", config, "--model", f"{provider}/m", "--base-url", server.url(provider))
        keys = priced | {KEYS[provider]: KEY}
        assert here(*words, "--out", "live", **keys).returncode == 0
        live = summary(folder / "live")[f"{provider}/m"]["cost"]
        assert here(*words, "--out", "run", "--batch", **keys).returncode == 0
        batch = summary(folder / "run")[f"{provider}/m"]["cost"]
        assert batch["dollars"] == pytest.approx(live["dollars"] / 2, abs=2e-6)
        assert (batch["batch_answers"], live["batch_answers"]) == (12, 0)
        assert batch["planned_cached_share"] is None
    known = capabilities("openai/gpt-4.1" if provider == "openai" else "anthropic/claude-haiku-4-5")
    records = [record.reply for record in read(folder / "run") if record.reply]
    sums = [cost_dollars(Usage(input=reply.usage.input, output=reply.usage.output), known, batch=True) or 0 for reply in records]
    assert batch["dollars"] == pytest.approx(sum(sums), abs=1e-6)


@pytest.mark.usefixtures("quick")
def test_what_was_asked_live_in_a_run_of_batches_counts_as_that(folder: Path, priced: dict[str, str]) -> None:
    """Half of the trials are cancelled and asked live afterwards: each answer at the price of its way, also against a cap."""
    write_config(folder, reshuffles=2)
    (folder / "prices.toml").write_text(
        '[models."openai/m"]\nprice = {input = 1000, output = 4000}\nbatch_discount = 0.5\n', encoding="utf-8"
    )
    with BatchServer(answer_to) as server:
        words = ("sweep", "small.toml", "--model", "openai/m", "--base-url", server.url("openai"), "--out")
        keys = priced | {KEYS["openai"]: KEY}
        assert here(*words, "live", "--yes", **keys).returncode == 0
        server.fate = lambda _: "cancelled"
        assert here(*words, "run", "--batch", "--yes", **keys).returncode == 3
        done = here(*words, "run", "--yes", **keys)
        assert done.returncode == 0, done.stderr
    live, mixed = (summary(folder / run)["openai/m"]["cost"] for run in ("live", "run"))
    assert 0 < mixed["batch_answers"] < mixed["answers"] == 12
    assert 0.5 * live["dollars"] < mixed["dollars"] < live["dollars"]
    assert f"${mixed['dollars']:,.2f} spent" in done.stdout


@pytest.mark.usefixtures("quick")
def test_a_cap_in_a_batch_sweep_holds_back_no_more_than_batches_cost(folder: Path, priced: dict[str, str]) -> None:
    """A cap between the bound at batch prices and the one at live prices lets all trials through in one go."""
    config = write_config(folder, reshuffles=2, sampling={"max_output_tokens": 20})
    known = capabilities("openai/gpt-4.1")
    bounds = [sum(session.Meter(known, batch=batch).most(prompt).dollars for prompt in _prompts(config)) for batch in (True, False)]
    assert bounds[0] * 1.5 < bounds[1]
    with BatchServer(answer_to) as server:
        done = here(
            "sweep", config, "--model", "openai/m", "--base-url", server.url("openai"), "--out", "run", "--batch",
            "--max-cost", str(bounds[0] * 1.2), **priced, **{KEYS["openai"]: KEY},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert [len(batch.requests) for batch in server.batches.values()] == [12]


def _prompts(config: Path) -> list[Prompt]:
    made = experiment(config)
    plan = Plan(made, gather(made))
    return [plan.materials.maker.make(trial) for trial in plan.trials(("user",))]
