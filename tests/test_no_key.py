"""No key gets anywhere but into the header of a request to the address that the user named.

Servers here repeat every header that they get, in answers, errors, redirects and broken bodies. Everything that niah writes, prints
or sends elsewhere meanwhile lies in one folder, which is then searched for the keys and for pieces of them, in every spelling.
"""

import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import typer.main

from niah.backends.remote import PROVIDERS
from niah.cli.app import app
from tests.chat_server import Answer, Asked, ChatServer
from tests.hurry import hurry
from tests.run.command import here, niah, write_config

VARIABLES = sorted({variable for provider in PROVIDERS.values() for variable in provider.keys} | {"MY_OWN_VARIABLE"})
SIGNING = {"AWS_ACCESS_KEY_ID": "AKIANIAHTESTS0000000", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "session"}
PIECE = 14
"""Characters of a key that are found nowhere."""
COMMON = "Zq7/Vx+9"


def key_of(variable: str) -> str:
    """A key with characters that JSON and addresses spell in several ways, and without a word that stands elsewhere."""
    body = base64.b32encode(f"{variable} of nobody".encode()).decode().rstrip("=")
    return f"sk-{body[:12]}{COMMON}{body[12:40]}=="


KEYS = {variable: key_of(variable) for variable in VARIABLES}
SECRETS = {name: f"{SIGNING[name]}{key_of(name)}" for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")}
ENVIRONMENT = {**KEYS, "AZURE_OPENAI_ENDPOINT": "http://127.0.0.1:9", "AWS_REGION": "us-east-1"}


def spellings(key: str) -> Iterator[bytes]:
    """Pieces of a key, and all of it as JSON, addresses and base64 spell it."""
    yield from (key[start : start + PIECE].encode() for start in range(len(key) - PIECE + 1))
    yield from (quote(key, safe="").encode(), key.replace("/", "\\/").encode(), base64.b64encode(key.encode())[:-4])
    yield from (quote(key[start : start + PIECE], safe="").encode() for start in range(0, len(key) - PIECE + 1, PIECE // 2))


FORBIDDEN = {piece for key in (*KEYS.values(), *SECRETS.values()) for piece in spellings(key)}


def leaks(text: bytes) -> list[bytes]:
    return [piece for piece in FORBIDDEN if piece in text]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory; caches, home and temporary files beside it. Afterwards no file in any of these holds a key."""
    place = tmp_path / "work"
    for name in ("work", "home", "temporary"):
        (tmp_path / name).mkdir()
    for name in ("NIAH_CACHE", "HF_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.chdir(place)
    hurry(monkeypatch, 1000)
    yield place
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert {str(path): found for path in files if (found := leaks(path.read_bytes()) or leaks(str(path).encode()))} == {}


def run(*words: str | Path, environment: dict[str, str] = ENVIRONMENT, code: int | None = None) -> str:
    """Run a command with keys in the environment; what it said, which holds none of them."""
    done = here(*words, **environment)
    assert leaks((done.stdout + done.stderr).encode()) == []
    assert code is None or done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def one_trial(folder: Path, model: str, **fields: Any) -> Path:
    return write_config(folder, models=[model], lengths=[300], depths=[0.5], reshuffles=1, **fields)


def echo(asked: Asked) -> str:
    """Everything that the request's headers said, as a careless server repeats it."""
    return " ".join(f"{name}={value}" for name, value in asked.headers.items() if name in SHOWN)


SHOWN = ("authorization", "x-api-key", "x-goog-api-key", "api-key", "x-amz-security-token")


def secret_of(asked: Asked) -> str:
    return next(asked.headers[name] for name in SHOWN if name in asked.headers).removeprefix("Bearer ")


# What servers do with the key that they got


def told(asked: Asked) -> dict[str, Any]:
    """A body that is an answer in every wire format at once, and repeats the key in each field of it."""
    said = f"The key is {echo(asked)}."
    part = {"type": "text", "text": said}
    return {
        "id": said,
        "model": said,
        "modelVersion": said,
        "system_fingerprint": said,
        "choices": [{"message": {"content": said, "reasoning_content": said}, "finish_reason": "stop"}],
        "type": "message",
        "content": [part],
        "stop_reason": "end_turn",
        "candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}],
        "message": {"role": "assistant", "content": said},
        "done_reason": "stop",
        "status": "completed",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": said}]}],
    }


def converse(asked: Asked) -> dict[str, Any]:
    return {"output": {"message": {"content": [{"text": echo(asked)}]}}, "stopReason": "end_turn"}


def refusal(status: int) -> Any:
    return lambda asked: Answer(status=status, body={"error": {"message": f"Not with {echo(asked)}", "type": echo(asked)}})


HTML = {"content-type": "text/html"}
ECHOES: dict[str, Any] = {
    "200": lambda asked: Answer(
        body=converse(asked) if "/converse" in asked.path else told(asked),
        headers={"x-your-key": secret_of(asked), "x-request-id": echo(asked)},
    ),
    "200 with other slashes": lambda asked: Answer(
        body=json.dumps(converse(asked) if "/converse" in asked.path else told(asked)).replace("/", "\\/"),
        headers={"content-type": "application/json"},
    ),
    "200 with an error": lambda asked: Answer(body={"error": {"message": echo(asked)}, "type": "error"}),
    "200 with other JSON": lambda asked: Answer(body={"you": [echo(asked)]}),
    "200 with broken JSON": lambda asked: Answer(body='{"choices": "' + echo(asked), headers={"content-type": "application/json"}),
    "200 with a page": lambda asked: Answer(body=f"<html>{echo(asked)}</html>", headers=HTML),
    "400": refusal(400),
    "400, a long way on": lambda asked: Answer(status=400, body={"error": {"message": "x" * 170 + echo(asked)}}),
    "401": refusal(401),
    "401 in plain text": lambda asked: Answer(status=401, body=f"Incorrect API key provided: {secret_of(asked)}"),
    "401 as an address": lambda asked: Answer(status=401, body={"detail": f"see /login?key={quote(secret_of(asked), safe='')}"}),
    "401 with other slashes": lambda asked: Answer(status=401, body=json.dumps({"detail": secret_of(asked)}).replace("/", "\\/")),
    "401 with escapes": lambda asked: Answer(
        status=401, body='{"detail": "' + "".join(f"\\u{ord(character):04x}" for character in secret_of(asked)) + '"}'
    ),
    "403 with a page": lambda asked: Answer(status=403, body=f"<html>{echo(asked)}</html>", headers=HTML),
    "404": refusal(404),
    "422": lambda asked: Answer(status=422, body={"detail": [{"msg": echo(asked), "input": echo(asked)}]}),
    "429": refusal(429),
    "500": refusal(500),
    "529": refusal(529),
}
BEARERS = list(PROVIDERS)


@pytest.mark.parametrize("prefix", BEARERS)
def test_what_a_server_repeats_of_its_own_key_is_taken_out(folder: Path, prefix: str) -> None:
    """Each kind of answer to each format, with the key in it: neither output nor files hold it, and the server did get it."""
    config = one_trial(folder, f"{prefix}/m")
    for number, (name, answer) in enumerate(ECHOES.items()):
        with ChatServer(answer) as server:
            said = run("sweep", config, "--base-url", server.url, "--out", f"run{number}")
        assert server.log, said
        assert all(secret_of(asked) == KEYS[PROVIDERS[prefix].keys[0]] for asked in server.log)
        kept = (folder / f"run{number}" / "trials.jsonl").read_text() if (folder / f"run{number}" / "trials.jsonl").exists() else ""
        if name == "200":
            assert "[key]" in kept


def test_what_a_server_repeats_of_a_signed_request_is_taken_out(folder: Path) -> None:
    """AWS repeats the canonical request, with the session's token in it, when a signature is wrong. The secret key is never sent."""
    pytest.importorskip("botocore")
    environment = {**SIGNING, **SECRETS, "AWS_REGION": "us-east-1"}
    config = one_trial(folder, "bedrock/m")
    for number, answer in enumerate((refusal(403), refusal(400), ECHOES["200"], ECHOES["401 as an address"])):
        with ChatServer(lambda asked, answer=answer: answer(asked)) as server:
            run("sweep", config, "--base-url", server.url, "--out", f"run{number}", environment=environment)
        assert server.log
        for asked in server.log:
            assert asked.headers["x-amz-security-token"] == SECRETS["AWS_SESSION_TOKEN"]
            assert asked.headers["authorization"].startswith("AWS4-HMAC-SHA256")
            assert SECRETS["AWS_SECRET_ACCESS_KEY"] not in json.dumps(asked.headers)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_not_followed(folder: Path, status: int) -> None:
    """The other host hears nothing at all, with the key or without; where it is is told without the key."""
    with ChatServer("Welcome.") as other:

        def away(asked: Asked) -> Answer:
            secret = quote(secret_of(asked), safe="")
            return Answer(status=status, headers={"location": f"{other.url.replace('127.0.0.1', 'localhost')}/in?key={secret}"})

        with ChatServer(away) as server:
            for prefix in PROVIDERS:
                said = run("sweep", one_trial(folder, f"{prefix}/m"), "--base-url", server.url, "--out", f"run-{prefix}", code=4)
                assert "redirects" in said
                assert "localhost" in said
            assert len(server.log) == len(PROVIDERS)
        assert other.log == []
        assert other.connections == 0


# What users do


def test_no_command_says_or_writes_a_key(folder: Path) -> None:
    """Sweep, resume, plan, prompt, report, rescore with a judge, lists and every --help, with all keys in the environment."""
    config = one_trial(folder, "server/m")
    with ChatServer("Hob Grindrel, or 3,846 and Ottilwe Brask, or Plessowick.") as server:
        base = ("--base-url", server.url)
        run("sweep", config, *base, "--out", "run", code=0)
        run("sweep", config, *base, "--out", "run", code=0)
        run("sweep", config, *base, "--key-variable", "MY_OWN_VARIABLE", "--out", "own", code=0)
        assert [secret_of(asked) for asked in server.log] == [KEYS["NIAH_SERVER_KEY"], KEYS["MY_OWN_VARIABLE"]]
        run("plan", config, *base, "--model", "openai/gpt-4o-mini", "--model", "bedrock/m", code=0)
        run("plan", config, *base, "--key-variable", "MY_OWN_VARIABLE", "--format", "json", code=0)
        run("prompt", config, code=0)
        run("report", "run", "own", "--out", "report", code=0)
        run("rescore", "run", "--scorer", "exact", code=0)
        server.answer = lambda asked: f"10 {echo(asked)}"
        run("rescore", "own", "--scorer", "judge", "--judge", "openai/judge", *base)
        assert secret_of(server.log[-1]) == KEYS["OPENAI_API_KEY"]
        run("check", "server/m", "--config", config, *base)
        out = niah("sweep", config, *base, "--out", "debug", PYTHONDEVMODE="1", PYTHONASYNCIODEBUG="1", **ENVIRONMENT)
        assert out.returncode == 0
        assert leaks((out.stdout + out.stderr).encode()) == []
    for words in (("models",), ("models", "openai"), ("needles", "list"), ("haystack", "list"), ("--version",)):
        run(*words)
    for path, _ in commands():
        run(*path, "--help", code=0)


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """(words, command) of everything on the command line."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), typer.main.get_command(app))]
    for words, command in waiting:
        yield words, command
        waiting += [((*words, name), child) for name, child in getattr(command, "commands", {}).items()]


def test_there_is_no_option_for_a_key() -> None:
    """Keys come from the environment: no option takes one, and none is read from a variable that Typer would show."""
    options = {(words, option) for words, command in commands() for each in command.params for option in each.opts}
    assert len(options) > 40
    suspicious = {option for _, option in options if any(word in option for word in ("key", "secret", "password", "credential", "auth"))}
    assert suspicious == {"--key-variable"}
    assert not [option for _, option in options if re.search(r"token(?!s|izer)", option)]
    assert not [each for _, command in commands() for each in command.params if getattr(each, "envvar", None)]


@pytest.mark.parametrize("key", ["sk-proj-Ab3/xyz+Q9==", "sk_live_Ab3Xyz9Q8W7E6R5", "AIzaSyD9Ab3Xyz9Q8W7E6R5T4"])
@pytest.mark.parametrize("prefix", ["server", "openai"])
def test_a_key_given_as_the_name_of_a_variable_is_refused_and_not_repeated(folder: Path, prefix: str, key: str) -> None:
    """--key-variable with the key itself, in an option or a config: an error that does not show it, before any file is written."""
    plain, inside = one_trial(folder, f"{prefix}/m"), folder / "inside.toml"
    inside.write_text(f'key_variable = "{key}"\n{plain.read_text()}')
    with ChatServer("Hello.") as server:
        for words in ((plain, "--key-variable", key), (inside,)):
            for command in (("sweep", "--out", "run"), ("plan",)):
                done = here(command[0], *words, "--base-url", server.url, *command[1:])
                assert done.returncode in (2, 4) or command == ("plan",), done.stdout + done.stderr
                assert key not in done.stdout + done.stderr
                assert command == ("plan",) or "key-variable" in done.stderr
        assert server.log == []
    inside.unlink()
    assert not any(key.encode() in path.read_bytes() for path in folder.parent.rglob("*") if path.is_file())


@pytest.mark.parametrize("prefix", ["server", "openai"])
def test_a_named_variable_that_is_not_set_is_an_error_and_a_plan_needs_none(folder: Path, prefix: str) -> None:
    """Not a sweep without a key, which some servers would take for another user's."""
    config = one_trial(folder, f"{prefix}/m")
    with ChatServer("Hello.") as server:
        words = (config, "--base-url", server.url, "--key-variable", "MY_OWN_2ND_VARIABLE")
        assert "MY_OWN_2ND_VARIABLE" in run("sweep", *words, "--out", "run", code=4)
        run("plan", *words, code=0)
        assert server.log == []
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    "address",
    ["http://user:{key}@127.0.0.1:9/v1", "ftp://user:{key}@h/v1", "user:{key}@h", "http://127.0.0.1:9/v1?key={key}", "http://h/v1#{key}"],
)
def test_a_key_in_an_address_is_refused_and_not_repeated(folder: Path, address: str) -> None:
    """It would stand in run.json and in every error."""
    key = "Ab3Xyz9Q8W7E6R5T4"
    done = here("sweep", one_trial(folder, "server/m"), "--base-url", address.format(key=key), "--out", "run")
    assert done.returncode == 2
    assert "--base-url" in done.stderr
    assert key not in done.stdout + done.stderr
    assert not (folder / "run").exists()


@pytest.mark.parametrize("words", [("--api-key", "{key}"), ("--key={key}",), ("--token", "{key}")])
def test_a_key_in_an_option_that_does_not_exist_is_not_repeated(folder: Path, words: tuple[str, ...]) -> None:
    key = "Ab3Xyz9Q8W7E6R5T4"
    done = here("sweep", one_trial(folder, "server/m"), *(word.format(key=key) for word in words))
    assert done.returncode == 2
    assert key not in done.stdout + done.stderr


def test_a_key_in_a_config_is_not_repeated(folder: Path) -> None:
    key = "Ab3Xyz9Q8W7E6R5T4"
    config = one_trial(folder, "server/m")
    config.write_text(f'api_key = "{key}"\n{config.read_text()}')
    done = here("sweep", config, "--base-url", "http://127.0.0.1:9/v1")
    config.unlink()
    assert done.returncode == 2
    assert "api_key" in done.stderr
    assert key not in done.stdout + done.stderr


def test_the_search_would_find_a_key(tmp_path: Path) -> None:
    """In any of its spellings, in the middle of anything."""
    key = KEYS["OPENAI_API_KEY"]
    for spelt in (key, key[5:25], quote(key, safe=""), json.dumps(key), key.replace("/", "\\/"), base64.b64encode(key.encode()).decode()):
        assert leaks(f"x{spelt}y".encode()), spelt
    assert leaks(json.dumps({**os.environ, "now": "no key"}).encode()) == []
