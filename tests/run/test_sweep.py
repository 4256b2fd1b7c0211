"""Sweeps end to end: the command line against a chat completions server on loopback."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from niah.errors import UsageError
from niah.run.sweep import choose_folder
from tests.chat_server import Answer, Asked, ChatServer, completion, failure
from tests.run.command import answered, cells, experiment, found, here, lines, niah, prompts, summary, uncovered, write_config


def test_a_blind_region_is_reported_exactly_as_it_is(folder: Path) -> None:
    """A server that is blind at some lengths and depths gives recall 0 there and 1 elsewhere, with exact counts."""
    config = write_config(folder, lengths=[300, 450, 600], depths=[0, 0.3, 0.7, 1], reshuffles=4)
    table = prompts(experiment(config))
    blind = {(450, 0.3), (450, 0.7), (600, 0.0), (600, 0.3), (600, 0.7)}

    def answer(asked: Asked) -> str:
        trial = table[asked.id]
        return "Nobody knows." if (trial.length, trial.depths[0]) in blind else found(asked)

    with ChatServer(answer) as server:
        done = niah("sweep", config, "--base-url", server.url, "--out", "run")
    assert done.returncode == 0, done.stderr
    rows = {(int(row["length"]), float(row["depth"])): row for row in cells(folder / "run")}
    assert len(rows) == 12
    for cell, row in rows.items():
        assert (float(row["recall"]), int(row["trials"])) == (0.0 if cell in blind else 1.0, 4), cell
        assert [int(row[name]) for name in ("errors", "cut", "refused", "truncated", "missing")] == [0] * 5
    told = summary(folder / "run")["server/m"]
    assert told["recall"] == round(28 / 48, 6)
    assert (told["trials"], told["errors"], told["missing"]) == (48, 0, 0)
    assert set(server.times_asked.values()) == {1}
    assert {path.name for path in (folder / "run").iterdir()} >= {"heatmap.png", "heatmap.svg", "cells.csv", "summary.json", "run.json"}


def test_a_finished_run_asks_nothing_again_and_its_default_folder_is_found(folder: Path) -> None:
    """The same command twice: one folder under results/, and not one request more."""
    config = write_config(folder)
    with ChatServer(found) as server:
        first = here("sweep", config, "--base-url", server.url)
        asked = len(server.log)
        second = here("sweep", config, "--base-url", server.url)
        assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
        assert (asked, len(server.log)) == (18, 18)
    runs = list((folder / "results").iterdir())
    assert len(runs) == 1
    assert "finished" in json.loads((runs[0] / "run.json").read_text())
    assert len(answered(runs[0])) == 18


def test_an_unfinished_run_of_another_day_is_taken_up_again(folder: Path) -> None:
    """Under results/, an unfinished run of the same experiment wins over a new folder; a finished one does not."""
    made = experiment(write_config(folder))
    new = choose_folder(made, folder / "results")
    old = folder / "results" / f"2020-01-01-small-{new.name[-8:]}"
    old.mkdir(parents=True)
    (old / "run.json").write_text("{}")
    assert choose_folder(made, folder / "results") == old
    assert choose_folder(experiment(folder / "small.toml", seed=7), folder / "results") != old
    (old / "run.json").write_text('{"finished": "2020-01-02"}')
    assert choose_folder(made, folder / "results") == new


def test_several_models_and_cue_modes_are_asked_each_once(folder: Path) -> None:
    """Two models with three cue modes: every (model, trial) once, requests as each cue mode wants them, series apart."""
    config = write_config(folder, models=["server/a", "server/b"], cue=["off", "user", "prefill"], reshuffles=2, lengths=[400])
    with ChatServer(found) as server:
        done = here("sweep", config, "--base-url", server.url, "--out", "run")
    assert done.returncode == 0, done.stderr
    kept = answered(folder / "run")
    assert len(kept) == len(set(kept)) == 2 * 3 * 1 * 3 * 2
    by_cue = {cue: [asked for asked in server.log if _cue(asked) == cue] for cue in ("off", "user", "prefill")}
    assert {cue: len(some) for cue, some in by_cue.items()} == {"off": 12, "user": 12, "prefill": 12}
    told = summary(folder / "run")
    assert set(told) == {"server/a", "server/b", "total"}
    assert set(told["server/a"]["cues"]) == {"off", "user", "prefill"}
    assert {row["cue"] for row in cells(folder / "run")} == {"off", "user", "prefill"}


def _cue(asked: Asked) -> str:
    if asked.messages[-1]["role"] == "assistant":
        assert asked.body["continue_final_message"] is True
        assert asked.body["add_generation_prompt"] is False
        return "prefill"
    assert "continue_final_message" not in asked.body
    return "user" if "most relevant sentence" in asked.user else "off"


def test_a_request_holds_nothing_that_was_not_asked_for(folder: Path) -> None:
    """Of a plain server experiment: model, messages, stream and max_tokens; sampling only where the experiment has it."""
    with ChatServer(found) as server:
        plain = write_config(folder, lengths=[300], depths=[0], reshuffles=1)
        assert here("sweep", plain, "--base-url", server.url, "--out", "a").returncode == 0
        sampled = write_config(folder, name="sampled", lengths=[300], depths=[0], reshuffles=1, sampling={"temperature": 0.0, "top_p": 0.5})
        assert here("sweep", sampled, "--base-url", server.url, "--out", "b").returncode == 0
    first, second = (asked.body for asked in server.log)
    assert set(first) == {"model", "messages", "stream", "max_tokens"}
    assert (first["model"], first["stream"], first["max_tokens"]) == ("m", False, 2048)
    assert set(second) - set(first) == {"temperature", "top_p"}
    assert {asked.path for asked in server.log} == {"/v1/chat/completions"}


def test_openai_models_get_their_own_output_cap_and_refuse_a_prefill_before_any_request(folder: Path) -> None:
    """openai/NAME sends max_completion_tokens; with cue prefill it stops with exit 2, without a key with exit 4, and no request."""
    config = write_config(folder, models=["openai/gpt"], lengths=[300], depths=[0], reshuffles=1)
    key = "sk-proj-0123456789abcdef"
    with ChatServer(found) as server:
        missing = here("sweep", config, "--base-url", server.url, "--out", "a")
        assert missing.returncode == 4
        assert "OPENAI_API_KEY" in missing.stderr
        refused = here("sweep", config, "--base-url", server.url, "--cue", "prefill", "--out", "a", OPENAI_API_KEY=key)
        assert refused.returncode == 2
        assert "prefill" in refused.stderr
        assert not server.log
        done = here("sweep", config, "--base-url", server.url, "--out", "a", OPENAI_API_KEY=key)
        assert done.returncode == 0, done.stderr
    (asked,) = server.log
    assert asked.body["max_completion_tokens"] == 2048
    assert "max_tokens" not in asked.body
    assert asked.headers["authorization"] == f"Bearer {key}"


def test_another_experiment_in_the_same_folder_is_refused_and_what_differs_is_named(folder: Path) -> None:
    """Other lengths, other needles behind the same name: exit 2, the difference in the message, no request, nothing changed."""
    config = write_config(folder, lengths=[300], depths=[0], reshuffles=1)
    with ChatServer(found) as server:
        assert here("sweep", config, "--base-url", server.url, "--out", "run").returncode == 0
        before = (folder / "run" / "trials.jsonl").read_bytes()
        other = here("sweep", config, "--base-url", server.url, "--out", "run", "--lengths", "300,400")
        assert other.returncode == 2
        assert "another experiment" in other.stderr
        assert "lengths: [300] there, [300, 400] now" in other.stderr
        needles = folder / "three.toml"
        needles.write_text(needles.read_text().replace("each autumn", "each spring"))
        changed = here("sweep", config, "--base-url", server.url, "--out", "run")
        assert changed.returncode == 2
        assert "needles:" in changed.stderr
        assert len(server.log) == 1
    assert (folder / "run" / "trials.jsonl").read_bytes() == before


def test_a_second_writer_is_told_that_there_is_one(folder: Path) -> None:
    """While one sweep writes, the same command in a second process exits 2 and says why; the first is not disturbed."""
    config = write_config(folder)
    with ChatServer(lambda asked: completion(found(asked), delay=0.4)) as server:
        words = ("sweep", config, "--base-url", server.url, "--out", "run", "--concurrency", "3")
        with subprocess.Popen([sys.executable, "-m", "niah", *map(str, words)], stdout=subprocess.DEVNULL, env=uncovered()) as first:
            assert server.wait_for(1)
            second = here(*words)
            assert second.returncode == 2
            assert "another niah is writing" in second.stderr
            assert first.wait(60) == 0
    assert len(answered(folder / "run")) == len(server.log) == 18


def test_a_401_in_the_middle_stops_at_once_and_keeps_what_was_answered(folder: Path) -> None:
    """The key is refused once, after twenty answers: exit 4, at most the requests in flight more, all answers kept, resumable."""
    config = write_config(folder, reshuffles=10)

    def answer(asked: Asked) -> str | Answer:
        return failure(401, {"error": "Unauthorized"}) if asked.number == 20 else completion(found(asked), delay=0.005)

    with ChatServer(answer) as server:
        words = ("sweep", config, "--base-url", server.url, "--out", "run", "--concurrency", "4")
        done = here(*words)
        assert done.returncode == 4
        assert "401" in done.stderr
        assert "key" in done.stderr
        assert len(server.log) <= 24
        assert len(answered(folder / "run")) == len(lines(folder / "run")) == len(server.log) - 1
        server.answer = found
        again = here(*words)
        assert again.returncode == 0, again.stderr
        assert sum(count > 1 for count in server.times_asked.values()) == 1
    kept = answered(folder / "run")
    assert len(kept) == len(set(kept)) == 60


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(body="<!doctype html><title>Hello</title>", headers={"content-type": "text/html"}), ["web page", "--base-url"]),
        (Answer(status=404, body="<html>nothing here</html>", headers={"content-type": "text/html"}), ["404", "--base-url"]),
        (Answer(status=501, body="<html>Unsupported method</html>", headers={"content-type": "text/html"}), ["501", "--base-url"]),
        (Answer(status=307, headers={"location": "https://example.org/v1/chat/completions"}), ["https://example.org", "--base-url"]),
        (failure(403, {"detail": "Forbidden"}), ["403", "Forbidden", "key"]),
        (failure(404, {"error": {"message": "The model `m` does not exist.", "code": "model_not_found"}}), ["does not exist", "name"]),
        (failure(400, {"detail": "model 'm' not found"}), ["model 'm' not found", "name"]),
        (failure(429, {"error": {"message": "You exceeded your quota.", "code": "insufficient_quota"}}), ["quota"]),
    ],
)
def test_a_wrong_address_key_or_model_costs_one_request_and_exit_4(folder: Path, answer: Answer, words: list[str]) -> None:
    """What every further request would meet again stops the sweep at its first one, with a message of what to do."""
    config = write_config(folder)
    with ChatServer(lambda _: answer) as server:
        done = here("sweep", config, "--base-url", server.url, "--out", "run")
    assert done.returncode == 4
    assert len(server.log) == 1
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_the_line_that_resumes_names_the_folder_when_it_was_not_given(folder: Path) -> None:
    """After a stop in a default folder, the printed command, run as it stands, finishes that run."""
    config = write_config(folder, name="spaced", corpora=["with space"])
    with ChatServer(lambda asked: found(asked) if asked.number < 5 else failure(402)) as server:
        done = here("sweep", config, "--base-url", server.url, "--concurrency", "2")
        assert done.returncode == 4
        printed = next(line.strip() for line in done.stdout.splitlines() if line.startswith("  niah sweep"))
        server.answer = found
        again = here(*shlex.split(printed)[1:])
        assert again.returncode == 0, again.stderr
    (run,) = (folder / "results").iterdir()
    assert len(set(answered(run))) == 18


@pytest.mark.parametrize("echo", [400, 401, 500, 200])
def test_a_key_never_appears_anywhere_even_when_the_server_echoes_it(folder: Path, echo: int) -> None:
    """The server repeats the Authorization header in errors and in answers: no file and no output holds the key."""
    key = "sk-verysecret/0123456789"
    config = write_config(folder, lengths=[300], depths=[0], reshuffles=1)

    def answer(asked: Asked) -> Answer:
        told = f"bad header {asked.headers['authorization']} of {asked.body['model']}"
        return completion(told) if echo == 200 else failure(echo, {"error": {"message": told}}, retry_after="0.001")

    with ChatServer(answer) as server:
        done = here("sweep", config, "--base-url", server.url, "--out", "run", NIAH_SERVER_KEY=key)
    assert server.log[0].headers["authorization"] == f"Bearer {key}"
    assert done.returncode == {200: 0, 400: 3}.get(echo, 4)
    assert key not in done.stdout + done.stderr
    for path in (folder / "run").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert key.encode() not in content, path
            assert b"verysecret" not in content, path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--base-url", "nonsense"], "no address"),
        (["--base-url", "http://127.0.0.1:99999/v1"], "no address"),
        (["--base-url", "http://[::1/v1"], "no address"),
        (["--base-url", "http://me:secret@127.0.0.1:1/v1"], "environment"),
        ([], "--base-url"),
        (["--model", "sever/m"], "server"),
        (["--model", "server"], "server/NAME"),
    ],
)
def test_bad_options_are_refused_in_a_line(folder: Path, words: list[str], told: str) -> None:
    """Exit 2, one or two lines that say what to do, no folder made, no traceback."""
    config = write_config(folder)
    done = here("sweep", config, "--out", "run", *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert not (folder / "run").exists()


def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(folder: Path) -> None:
    """A key with a letter from elsewhere, pasted by mistake: exit 2, and the key is not in the message."""
    config = write_config(folder)
    done = here("sweep", config, "--base-url", "http://127.0.0.1:1/v1", "--out", "run", NIAH_SERVER_KEY="sk-verysecret-0123-é")
    assert done.returncode == 2
    assert "environment" in done.stderr
    assert "verysecret" not in done.stderr


def test_an_unwritable_folder_is_refused(folder: Path) -> None:
    """A file where the run's folder should be: exit 2 and no traceback."""
    config = write_config(folder)
    (folder / "run").write_text("a file")
    done = here("sweep", config, "--base-url", "http://127.0.0.1:1/v1", "--out", "run")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    with pytest.raises(UsageError):
        experiment(config, models=[])
