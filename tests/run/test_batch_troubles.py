"""Sweeps in batches at providers in trouble: what is refused, lost, torn or spoiled is neither paid twice nor taken for whole."""

import json
from pathlib import Path

import pytest

from tests.batch_formats import Stored
from tests.batch_server import BatchServer, Trouble
from tests.run.batches import journal, limited, provider, quick, read, server, sweep
from tests.run.command import answered, lines, write_config

__all__ = ["provider", "quick", "server"]


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
