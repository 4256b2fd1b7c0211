"""Sweeps in batches against the three batch APIs: the same as live ones, and every end that a batch can take."""

from pathlib import Path

import pytest

from niah.backends.batching import supports_batch
from niah.run.journal import held
from tests.batch_formats import Refused
from tests.batch_server import KEYS, BatchServer
from tests.run.batches import KEY, journal, limited, provider, quick, read, same_as_live, server, sweep, words
from tests.run.command import answered, here, lines, write_config

__all__ = ["provider", "quick", "server"]


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


def test_the_cap_holds_for_batches(folder: Path, server: BatchServer) -> None:
    """What the cap leaves room for is sent; the rest when that has turned out cheaper; then it ends with everything kept."""
    write_config(folder)
    done = sweep(server, "openai", "--max-tokens", "6000")
    assert done.returncode == 4 and "cap" in done.stderr, done.stderr
    assert 0 < len(server.paid) < 18 and set(server.paid.values()) == {1}
    assert sweep(server, "openai", "--max-tokens", "2M").returncode == 0
    assert set(server.paid.values()) == {1} and len(server.paid) == 18


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
