"""Sweeps in batches against the three batch APIs: every end that a batch can take, and kill -9 between every two steps."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from niah.backends import batching
from niah.backends.batching import supports_batch
from niah.run import session
from niah.run.collecting import Pace
from niah.run.journal import held
from niah.run.limits import Patience
from tests.batch_server import KEYS, BatchServer, Refused, Stored, Trouble
from tests.run.command import PLAIN, answered, found, here, lines, summary, write_config

PROVIDERS = ("openai", "responses", "anthropic", "gemini")
KEY = "sk-test-0123456789abcdef"
QUICK = Pace(first=0.01, longest=0.03, grace=0.0, patience=Patience(base_seconds=0.002, longest_seconds=0.01))


def read(user: str) -> str:
    return found(SimpleNamespace(user=user))  # pyright: ignore[reportArgumentType]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "Pace", lambda: QUICK)


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer(read) as made:
        yield made


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    return request.param


def words(server: BatchServer, provider: str, *more: str, out: str = "run") -> list[str]:
    return ["sweep", "small.toml", "--model", f"{provider}/m", "--base-url", server.url(provider), "--out", out, "--yes", *more]


def sweep(server: BatchServer, provider: str, *more: str, out: str = "run") -> "subprocess.CompletedProcess[str]":
    return here(*words(server, provider, "--batch", *more, out=out), **{KEYS[provider]: KEY})


def limited(monkeypatch: pytest.MonkeyPatch, provider: str, **limits: Any) -> None:
    monkeypatch.setitem(batching.FORMATS, provider, replace(batching.FORMATS[provider], **limits))  # pyright: ignore[reportArgumentType]


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "batches.jsonl").read_text().splitlines()]


def table(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """What was measured: all but the cost, which is another one."""
    told = {model: {name: value for name, value in entry.items() if name != "cost"} for model, entry in summary(folder).items()}
    return (folder / "cells.csv").read_bytes(), told


def same_as_live(server: BatchServer, provider: str, folder: Path) -> bool:
    live = here(*words(server, provider, out="live"), **{KEYS[provider]: KEY})
    assert live.returncode == 0, live.stderr
    return table(folder / "run") == table(folder / "live")


def test_a_sweep_in_batches_is_the_same_as_a_live_one(
    folder: Path, server: BatchServer, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As few batches as the limit allows, each trial run and recorded once, the table that of a live run, nothing asked live."""
    write_config(folder)
    limited(monkeypatch, provider, most_requests=7)
    server.looks = 2
    done = sweep(server, provider)
    assert done.returncode == 0, done.stderr + done.stdout
    assert [len(batch.requests) for batch in server.batches.values()] == [7, 7, 4]
    assert set(server.paid.values()) == {1} and len(server.paid) == 18 and server.live == 0
    assert len(set(answered(folder / "run"))) == len(lines(folder / "run")) == 18
    assert [line["state"] for line in journal(folder / "run")].count("collected") == 3
    assert same_as_live(server, provider, folder)
    again = sweep(server, provider)
    assert again.returncode == 0 and len(server.batches) == 3
    assert KEY not in "".join(path.read_text(errors="ignore") for path in (folder / "run").iterdir() if path.is_file())


def test_the_bytes_of_a_batch_are_bounded(folder: Path, server: BatchServer, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(folder)
    limited(monkeypatch, provider, most_bytes=10_000)
    assert sweep(server, provider).returncode == 0
    sizes = [line["size"] for line in journal(folder / "run") if line["state"] == "submitting"]
    assert len(sizes) > 3 and max(sizes) <= 10_000 and set(server.paid.values()) == {1}
    if provider in ("openai", "responses"):
        assert [len(content) for name, content in server.files.items() if name.startswith("file-")] == sizes


def test_a_prompt_larger_than_a_batch_is_a_usage_error(folder: Path, server: BatchServer, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(folder)
    limited(monkeypatch, "gemini", most_bytes=500)
    done = sweep(server, "gemini")
    assert done.returncode == 2 and "larger than the 500 bytes" in done.stderr and not server.batches


def test_no_wait_leaves_the_batches_and_the_same_command_collects(folder: Path, server: BatchServer, provider: str) -> None:
    """Exit 3 and the line that resumes; a live run in between asks nothing that is in a batch; then all is collected."""
    write_config(folder)
    server.looks = 1
    first = sweep(server, provider, "--no-wait")
    assert first.returncode == 3 and "1 batches with 18 trials are at the provider" in first.stderr
    assert "niah sweep small.toml" in first.stdout and "--batch --no-wait" in first.stdout
    assert len(held(folder / "run")[f"{provider}/m"]) == 18
    live = here(*words(server, provider), **{KEYS[provider]: KEY})
    assert live.returncode == 3 and "18 trials are in unfinished batches" in live.stdout and server.live == 0
    last = sweep(server, provider)
    assert last.returncode == 0, last.stderr
    assert set(server.paid.values()) == {1} and len(server.batches) == 1
    assert same_as_live(server, provider, folder)


def test_live_runs_and_batches_share_a_run(folder: Path, server: BatchServer) -> None:
    """What was answered live is not sent; what failed live is."""
    write_config(folder)
    seen: list[str] = []

    def half(user: str) -> str | Refused:
        seen.append(user)
        return read(user) if len(seen) % 2 else Refused(400, "not this one")

    server.answer = half
    live = here(*words(server, "anthropic", "--concurrency", "1"), **{KEYS["anthropic"]: KEY})
    assert live.returncode == 3 and server.live == 18
    server.answer = read
    assert sweep(server, "anthropic").returncode == 0
    assert sum(server.paid.values()) == 9 and len(set(answered(folder / "run"))) == 18


@pytest.mark.parametrize("model", ["server/m", "baseline/bm25", "ollama/m", "bedrock/m", "openrouter/m", "azure/m"])
def test_models_without_batches_are_refused_before_anything(folder: Path, model: str) -> None:
    write_config(folder)
    done = here("sweep", "small.toml", "--model", model, "--batch", "--out", "run")
    assert done.returncode == 2 and "has no batches: leave out --batch" in done.stderr and not (folder / "run").exists()
    assert not supports_batch(model) and supports_batch("openai/m")


def test_no_wait_alone_is_a_usage_error(folder: Path) -> None:
    write_config(folder)
    assert here("sweep", "small.toml", "--no-wait").returncode == 2


def test_what_expired_is_asked_again_in_a_new_batch(folder: Path, server: BatchServer, provider: str) -> None:
    """Half of the first batch is answered, the rest expired (Gemini: all of it): the next one holds just these."""
    write_config(folder)
    server.fate = lambda _: "expired" if not server.batches else "done"
    if provider == "gemini":  # an expired batch of Gemini has no results at all: nothing of it was paid
        server.answer = lambda user: Refused(503) if not server.batches else read(user)
    done = sweep(server, provider)
    assert done.returncode == 0, done.stderr
    assert [len(batch.requests) for batch in server.batches.values()] == [18, 18 if provider == "gemini" else 9]
    assert set(server.paid.values()) == {1} and same_as_live(server, provider, folder)


def test_what_never_runs_is_recorded_as_failed_in_the_end(folder: Path, server: BatchServer, provider: str) -> None:
    """Three batches without result, then exit 3; the same command tries again."""
    write_config(folder)
    server.answer = lambda user: Refused("expired") if provider != "gemini" else Refused(503)
    done = sweep(server, provider)
    assert done.returncode == 3 and len(server.batches) == 3 and "18 failed" in done.stdout, done.stdout
    server.answer = read
    assert sweep(server, provider).returncode == 0
    assert len(server.batches) == 4 and same_as_live(server, provider, folder)


def test_what_somebody_cancelled_waits_for_the_next_session(folder: Path, server: BatchServer, provider: str) -> None:
    write_config(folder)
    if provider == "gemini":
        server.answer = lambda user: Refused(503)
    server.fate = lambda _: "cancelled"
    done = sweep(server, provider)
    left = 18 if provider == "gemini" else 9
    assert done.returncode == 3 and len(server.batches) == 1 and f"{left} trials are left" in done.stdout, done.stdout
    server.fate, server.answer = lambda _: "done", read
    assert sweep(server, provider).returncode == 0
    assert set(server.paid.values()) == {1} and same_as_live(server, provider, folder)


def test_errors_of_single_requests_mean_what_they_mean_live(folder: Path, server: BatchServer, provider: str) -> None:
    """An overflow and a bad request are recorded, an overloaded one is asked again."""
    write_config(folder)
    times: dict[str, int] = {}

    def answer(user: str) -> str | Refused:
        number = list(times).index(user) if user in times else len(times)
        times[user] = times.get(user, 0) + 1
        if number == 3:
            return Refused(400, "prompt is too long: 250000 tokens > 200000 maximum. input token count exceeds. context_length_exceeded")
        if number == 4:
            return Refused(400, "we do not like this one")
        return Refused(529 if provider == "anthropic" else 503, "busy") if number == 5 and times[user] == 1 else read(user)

    server.answer = answer
    done = sweep(server, provider)
    assert done.returncode == 3 and "we do not like this one" in done.stderr, done.stderr
    kinds = [line["error"]["kind"] for line in lines(folder / "run") if line["error"]]
    assert sorted(kinds) == ["bad_request", "context_overflow"] and len(answered(folder / "run")) == 16
    assert [len(batch.requests) for batch in server.batches.values()] == [18, 1]


def test_credentials_lost_in_the_middle_keep_everything_else(folder: Path, server: BatchServer) -> None:
    write_config(folder)
    server.answer = lambda user: Refused(401, "key revoked") if "How many prisms" in user else read(user)
    done = sweep(server, "anthropic")
    assert done.returncode == 4 and "key revoked" in done.stderr
    assert len(answered(folder / "run")) == 12 and len(server.batches) == 1
    server.answer = read
    assert sweep(server, "anthropic").returncode == 0 and set(server.paid.values()) == {1}


def test_a_batch_refused_as_a_whole_ends_the_run_and_loses_nothing(folder: Path, server: BatchServer, provider: str) -> None:
    if provider == "anthropic":
        pytest.skip("Anthropic refuses at creation")
    write_config(folder)
    server.fate = lambda _: "failed"
    done = sweep(server, provider)
    assert done.returncode == 4 and "ran nothing of it: bad" in done.stderr, done.stderr
    server.fate = lambda _: "done"
    assert sweep(server, provider).returncode == 0 and set(server.paid.values()) == {1}


def test_a_batch_refused_at_creation_ends_the_run_and_loses_nothing(folder: Path, server: BatchServer, provider: str) -> None:
    write_config(folder)
    server.trouble = lambda method, path: (
        Trouble(status=400, body={"error": {"message": "no such thing as m"}}) if method == "POST" else None
    )
    done = sweep(server, provider)
    assert done.returncode == 4 and "no such thing as m" in done.stderr and not server.batches
    server.trouble = lambda method, path: None
    assert sweep(server, provider).returncode == 0 and set(server.paid.values()) == {1}


@pytest.mark.parametrize("waits", [True, False])
def test_too_many_tokens_in_the_queue_make_smaller_batches_one_after_the_other(folder: Path, server: BatchServer, waits: bool) -> None:
    """OpenAI takes the batch and fails it. It is halved until it fits, also over sessions, and never two are there at once."""
    write_config(folder)
    server.looks = 1
    at_once: list[int] = []

    def fate(batch: Stored) -> str:
        at_once.append(sum(not other.ended for other in server.batches.values()))
        return "crowded" if len(batch.requests) > 5 else "done"

    server.fate = fate
    for _ in range(30):
        done = sweep(server, "openai", *([] if waits else ["--no-wait"]))
        if done.returncode != 3:
            break
    assert done.returncode == 0, done.stderr
    sizes = [len(batch.requests) for batch in server.batches.values()]
    assert sizes[:2] == [18, 9] or sizes[:2] == [18, 8], sizes
    assert all(size <= 5 for size in sizes[3:]) and max(at_once) == 0
    assert set(server.paid.values()) == {1} and len(server.paid) == 18


def test_one_prompt_too_many_for_the_queue_is_told(folder: Path, server: BatchServer) -> None:
    write_config(folder)
    server.fate = lambda _: "crowded"
    done = sweep(server, "openai")
    assert done.returncode == 4 and "more than the account's batches may hold" in done.stderr


def test_a_batch_too_large_for_the_server_is_halved(folder: Path, server: BatchServer) -> None:
    write_config(folder)
    times: list[int] = []

    def trouble(method: str, path: str) -> Trouble | None:
        times.extend([1] * (method == "POST"))
        body = {"type": "error", "error": {"type": "request_too_large", "message": "Request exceeds the maximum size"}}
        return Trouble(status=413, body=body) if method == "POST" and len(times) == 1 else None

    server.trouble = trouble
    done = sweep(server, "anthropic")
    assert done.returncode == 0, done.stderr
    assert len(server.batches) >= 2 and set(server.paid.values()) == {1}


def test_rate_limits_at_submission_are_waited_for(folder: Path, server: BatchServer, provider: str) -> None:
    write_config(folder)
    refused: list[str] = []

    def trouble(method: str, path: str) -> Trouble | None:
        if method == "POST" and len(refused) < 5:
            refused.append(path)
            return Trouble(status=429, headers={"retry-after": "0"})
        return None

    server.trouble = trouble
    assert sweep(server, provider).returncode == 0
    assert len(server.batches) == 1 and set(server.paid.values()) == {1}


def test_a_full_provider_takes_the_rest_when_a_batch_has_ended(folder: Path, server: BatchServer, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(folder)
    limited(monkeypatch, "gemini", most_requests=6)
    server.looks = 3

    def trouble(method: str, path: str) -> Trouble | None:
        busy = sum(not batch.ended for batch in server.batches.values())
        return (
            Trouble(status=429, body={"error": {"code": 429, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED"}})
            if method == "POST" and busy
            else None
        )

    server.trouble = trouble
    done = sweep(server, "gemini")
    assert done.returncode == 0, done.stderr
    assert [len(batch.requests) for batch in server.batches.values()] == [6, 6, 6] and set(server.paid.values()) == {1}


@pytest.mark.parametrize(
    "lost",
    [
        Trouble(status=500, done=True),
        Trouble(status=502, body=b"<html>", headers={"content-type": "text/html"}, done=True),
        Trouble(cut=20),
    ],
    ids=["500", "502", "cut"],
)
def test_a_creation_whose_answer_is_lost_is_found_again(folder: Path, server: BatchServer, provider: str, lost: Trouble) -> None:
    """The server made the batch and its answer did not arrive: it is found in the list (by its label, or by its results) and not sent anew."""
    write_config(folder)
    server.looks = 2
    server.trouble = lambda method, path: lost if method == "POST" and "atch" in path and not server.batches else None
    done = sweep(server, provider)
    assert done.returncode == 0, done.stderr
    assert len(server.batches) == 1 and set(server.paid.values()) == {1}
    assert "had come to be without our hearing of it" in done.stdout


def test_a_creation_that_failed_is_sent_again(folder: Path, server: BatchServer, provider: str) -> None:
    write_config(folder)
    times: list[str] = []

    def trouble(method: str, path: str) -> Trouble | None:
        times.extend([path] * (method == "POST" and "atch" in path))
        return Trouble(status=500) if method == "POST" and "atch" in path and len(times) == 1 else None

    server.trouble = trouble
    done = sweep(server, provider)
    assert done.returncode == 0, done.stderr
    assert len(server.batches) == 1 and [line["state"] for line in journal(folder / "run")].count("abandoned") == 1


def test_anthropic_batches_of_others_are_told_apart(folder: Path, server: BatchServer) -> None:
    """Foreign batches of the same size stand in the list, one of them still at work: ours is waited for, found, and not sent again."""
    write_config(folder)
    body = {"messages": [{"role": "user", "content": "x"}]}
    server.answer = lambda user: "hm" if user == "x" else read(user)
    server.looks = 6
    server.make("anthropic", "", [(f"theirs-{number}", body) for number in range(18)])
    server.looks = 0
    server.make("anthropic", "", [(f"others-{number}", body) for number in range(18)])
    server.trouble = lambda method, path: Trouble(status=500, done=True) if method == "POST" and len(server.batches) == 2 else None
    done = sweep(server, "anthropic")
    assert done.returncode == 0, done.stderr
    assert len(server.batches) == 3 and {count for key, count in server.paid.items() if "-" not in key} == {1}


@pytest.mark.parametrize("cut", [0, 100, 5000])
def test_a_torn_download_is_fetched_again(folder: Path, server: BatchServer, provider: str, cut: int) -> None:
    write_config(folder)
    torn: list[str] = []

    def trouble(method: str, path: str) -> Trouble | None:
        results = method == "GET" and ("content" in path or "results" in path or path.startswith("/v1beta/batches/"))
        if results and len(torn) < 3:
            torn.append(path)
            return Trouble(cut=cut)
        return None

    server.trouble = trouble
    done = sweep(server, provider)
    assert done.returncode == 0, done.stderr
    assert len(server.batches) == 1 and len(lines(folder / "run")) == 18


@pytest.mark.parametrize("spoiled", ["short", "half a line"])
def test_results_that_stay_incomplete_are_not_taken_for_all(folder: Path, server: BatchServer, provider: str, spoiled: str) -> None:
    """A file that ends too early without any error: exit 4, nothing is sent again, and it is collected once it is whole."""
    if provider == "gemini":
        pytest.skip("Gemini's results are one JSON object")
    write_config(folder)
    if provider == "anthropic":
        server.spoil = lambda found: found[:5] if spoiled == "short" else [*found[:5], "{"]
        done = sweep(server, provider)
        server.spoil = lambda found: found
    else:
        sweep(server, provider, "--no-wait")
        (name,) = [name for name in server.files if name.endswith("-out")]
        whole = server.files[name]
        server.files[name] = b"".join(whole.splitlines(keepends=True)[:5]) + (b'{"custom' if spoiled != "short" else b"")
        done = sweep(server, provider)
        server.files[name] = whole
    assert done.returncode == 4
    assert "not all here" in done.stderr and len(server.batches) == 1
    assert sweep(server, provider).returncode == 0
    assert len(server.batches) == 1 and len(set(answered(folder / "run"))) == len(lines(folder / "run")) == 18


def test_doubled_and_foreign_results_are_left_out_with_a_note(folder: Path, server: BatchServer, provider: str) -> None:
    write_config(folder)
    server.spoil = lambda found: [*found, found[0], *({**each, "custom_id": "f" * 32, "metadata": {"key": "f" * 32}} for each in found[:2])]
    done = sweep(server, provider)
    assert done.returncode == 0, done.stderr
    assert "3 results that are doubled or nobody's" in done.stdout and len(lines(folder / "run")) == 18


def test_gemini_results_without_ids_are_nobodys(folder: Path, server: BatchServer) -> None:
    """Which answer belongs to which trial is not guessed: exit 4, nothing recorded, and nothing is sent again by itself."""
    write_config(folder)
    server.spoil = lambda found: [{"response": each["response"]} for each in found]
    for _ in range(2):
        done = sweep(server, "gemini")
        assert done.returncode == 4 and "without ids" in done.stderr and not lines(folder / "run")
    assert len(server.batches) == 1


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_results_that_are_gone_are_asked_again_with_a_note(folder: Path, server: BatchServer, provider: str) -> None:
    """404 and 410: after 29 days there is nothing left to collect."""
    write_config(folder)
    assert sweep(server, provider, "--no-wait").returncode == 3
    server.gone = {"msgbatch_0001", "batch_0001-out"}
    done = sweep(server, provider)
    assert done.returncode == 0, done.stderr
    assert "no longer kept: its trials are asked again" in done.stdout
    assert len(server.batches) == 2 and len(lines(folder / "run")) == 18


def test_an_unknown_batch_is_asked_about_and_after_29_days_forgotten(folder: Path, server: BatchServer, provider: str) -> None:
    """With another key a batch is not there: that is no reason to pay again. After a month it is."""
    write_config(folder)
    assert sweep(server, provider, "--no-wait").returncode == 3
    (name,) = server.batches
    del server.batches[name]
    done = sweep(server, provider)
    assert done.returncode == 4 and "Is this the key that batch" in done.stderr and not server.batches, done.stderr
    path = folder / "run" / "batches.jsonl"
    path.write_text("".join(json.dumps(line | ({"at": 0.0} if "at" in line else {})) + "\n" for line in journal(folder / "run")))
    assert sweep(server, provider).returncode == 0
    assert len(server.batches) == 1


def test_the_cap_holds_for_batches(folder: Path, server: BatchServer) -> None:
    """What the cap leaves room for is sent; the rest when that has turned out cheaper; then it ends with everything kept."""
    write_config(folder)
    done = sweep(server, "openai", "--max-tokens", "6000")
    assert done.returncode == 4 and "cap" in done.stderr, done.stderr
    assert 0 < len(server.paid) < 18 and set(server.paid.values()) == {1}
    assert sweep(server, "openai", "--max-tokens", "2M").returncode == 0
    assert set(server.paid.values()) == {1} and len(server.paid) == 18


def test_an_interrupt_while_waiting_leaves_the_batch_at_work(folder: Path, server: BatchServer) -> None:
    write_config(folder)
    server.looks = 10_000
    command = [sys.executable, "-c", _DRIVER, "-", *words(server, "openai", "--batch")]
    process = subprocess.Popen(command, env=_environment("openai"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while server.count("GET", "/batches/") < 3 and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "18 trials are left" in output, errors
    next(iter(server.batches.values())).looks = 0
    assert sweep(server, "openai").returncode == 0 and set(server.paid.values()) == {1}


_DRIVER = """
import os, signal, sys
import niah.run.session as session
import niah.report.heatmap, matplotlib.pyplot, scipy.stats
from niah.backends.http import Sender
from niah.run.collecting import Pace
from niah.run.journal import Journal
from niah.run.limits import Patience

session.Pace = lambda: Pace(first=0.01, longest=0.03, grace=0.0, patience=Patience(base_seconds=0.002, longest_seconds=0.01))
at, steps = sys.argv[1], 0

def step():
    global steps
    steps += 1
    if at.isdecimal() and steps == int(at):
        os.kill(os.getpid(), signal.SIGKILL)

def stepped(owner, name):
    plain = getattr(owner, name)
    if name in ("_put", "fsync"):
        def around(*given, **named):
            step(); came = plain(*given, **named); step()
            return came
    else:
        async def around(*given, **named):
            step(); came = await plain(*given, **named); step()
            return came
    setattr(owner, name, around)

stepped(Journal, "_put")
stepped(os, "fsync")
for name in ("post", "post_file", "get", "download"):
    stepped(Sender, name)
from niah.cli import _run

def run(words):
    sys.argv = ["niah", *words]
    sys.stdout = sys.stderr = open(os.devnull, "w")
    return _run()

if at != "fork":
    sys.argv = ["niah", *sys.argv[2:]]
    sys.exit(_run())
for line in sys.stdin:
    at, _, words = line.strip().partition("\\t")
    child = os.fork()
    if not child:
        steps = 0
        os._exit(run(words.split("\\t")))
    if at.startswith("after"):
        import time
        time.sleep(float(at.removeprefix("after")))
        os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Runs the command with quick waits, and kills itself at the step that is asked for: before or after any journal line, sync or request."""


def _environment(provider: str) -> dict[str, str]:
    return {**os.environ, **PLAIN, KEYS[provider]: KEY, "NIAH_TEST_PROVIDER": provider}


class Killer:
    """A process with everything imported, that forks one for each command and kills it in time."""

    def __init__(self, provider: str):
        self._process = subprocess.Popen(
            [sys.executable, "-c", _DRIVER, "fork"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment(provider)
        )

    def run(self, at: str, words: list[str]) -> int:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("\t".join([at, *words]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def __enter__(self) -> "Killer":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout
        self._process.stdout.close()


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
def test_a_kill_at_every_step_pays_nothing_twice_and_loses_nothing(folder: Path, server: BatchServer, provider: str) -> None:
    """kill -9 before and after every journal line, every sync and every request of a sweep, each followed by the same command again."""
    write_config(folder, lengths=[300], depths=[0.5, 1.0], reshuffles=2)
    assert here(*words(server, provider, out="live"), **{KEYS[provider]: KEY}).returncode == 0
    expected, steps = table(folder / "live"), 0
    with Killer(provider) as killer:
        for steps in range(1, 200):
            server.paid.clear()
            server.batches.clear()
            server.looks = 1
            run = words(server, provider, "--batch", out=f"run{steps}")
            killed = killer.run(str(steps), run)
            if killed == 0:
                break
            assert killed == -signal.SIGKILL
            assert killer.run("-", run) == 0, steps
            assert set(server.paid.values()) == {1} and len(server.paid) == 4, (steps, server.paid)
            assert table(folder / f"run{steps}") == expected, steps
            assert len(set(answered(folder / f"run{steps}"))) == len(lines(folder / f"run{steps}")) == 4
    assert 20 < steps < 199


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
def test_thirty_kills_at_random_pay_nothing_twice_and_lose_nothing(folder: Path, server: BatchServer, provider: str) -> None:
    """One run, killed again and again after a random number of steps or a random time, with batches that expire in between."""
    write_config(folder, lengths=[300, 500], reshuffles=6)
    assert here(*words(server, provider, out="live"), **{KEYS[provider]: KEY}).returncode == 0
    draw = random.Random(5)
    server.looks = 2
    if provider != "gemini":
        server.fate = lambda _: "expired" if len(server.batches) % 3 == 0 else "done"
    run = words(server, provider, "--batch")
    kills = 0
    with Killer(provider) as killer:
        while kills < 30:
            code = killer.run(str(draw.randint(1, 9)) if kills % 3 else f"after{draw.random() * 0.15:.3f}", run)
            kills += 1
            if code == 0:
                break
        assert code in (0, -signal.SIGKILL) and killer.run("-", run) == 0
    assert set(server.paid.values()) == {1} and len(server.paid) == 36
    assert table(folder / "run") == table(folder / "live")
    assert len(set(answered(folder / "run"))) == len(lines(folder / "run")) == 36


def test_a_torn_journal_is_mended(folder: Path, server: BatchServer) -> None:
    """A torn last line was never taken for written; a damaged one in the middle stops everything."""
    write_config(folder)
    sweep(server, "openai", "--no-wait")
    path = folder / "run" / "batches.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"format":1,"state":"coll')
    assert sweep(server, "openai").returncode == 0
    assert len(journal(folder / "run")) == 3
    path.write_bytes(b"nonsense\n" + whole)
    done = sweep(server, "openai")
    assert done.returncode == 2 and "batches.jsonl, line 1 is damaged" in done.stderr, done.stderr
