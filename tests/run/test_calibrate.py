"""Lengths in the tested model's own tokens: every prompt fits by the provider's count, few counts are asked, and none of them twice."""

import asyncio
import json
import math
import re
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niah.config import load_experiment
from niah.run.calibrate import fit
from niah.run.overview import overview
from niah.run.plan import Plan, gather
from niah.run.store import read
from niah.task.corpus import open_corpus
from niah.trial import Prompt, Record, Trial
from tests.chat_server import Answer, Asked, ChatServer, completion, failure
from tests.hurry import hurry
from tests.run.command import here, lines, write_config

CORPORA = ["builtin/legal", "builtin/wikipedia"]
LENGTHS = [1000, 2000, 4000, 8000]
DEPTHS = [0.0, 0.3, 0.6, 1.0]
RESHUFFLES = 6
TEMPLATE_TOKENS = 11
Rule = Callable[[str], int]


def by_words(text: str) -> int:
    """A tokenizer of another kind than ours: words weigh 1.3, and long ones more."""
    return math.ceil(1.3 * len(text.split()) + len(text) / 40)


def by_pairs() -> Rule:
    """Byte pair encoding with a vocabulary of its own, learnt from other text than ours was."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    medical = open_corpus("builtin/medical")
    texts = [medical.document(number).text for number in range(150)]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=3000, show_progress=False))
    return lambda text: len(tokenizer.encode(text).ids)


class Provider:
    """Servers of several models behind one address, each with a tokenizer of its own; they count, and report what they count."""

    def __init__(self, **rules: Rule):
        self.rules = rules
        self.counted: dict[str, list[str]] = defaultdict(list)
        self.asked: dict[str, dict[str, int]] = defaultdict(dict)
        self.trouble: Callable[[Asked], Answer | None] = lambda _: None

    def tokens(self, model: str, messages: list[dict[str, str]]) -> int:
        return TEMPLATE_TOKENS + sum(self.rules[model](message["content"]) for message in messages)

    def __call__(self, asked: Asked) -> Answer:
        if trouble := self.trouble(asked):
            return trouble
        model = asked.body["model"]
        tokens = self.tokens(model, asked.messages)
        if asked.path == "/tokenize":
            self.counted[model].append(asked.id)
            return Answer(body={"count": tokens, "max_model_len": 1 << 20})
        self.asked[model][asked.id] = tokens
        return completion("I do not know.", usage={"prompt_tokens": tokens, "completion_tokens": 4})


def config(folder: Path, name: str = "own", **fields: Any) -> Path:
    table: dict[str, Any] = {
        "models": ["server/words", "server/pairs"], "corpora": CORPORA, "needles": "default", "lengths": LENGTHS, "depths": DEPTHS,
        "reshuffles": RESHUFFLES, "tokenizer": "provider",
    }  # fmt: skip
    return write_config(folder, name=name, **(table | fields))


def small(folder: Path, name: str = "few", **fields: Any) -> Path:
    few: dict[str, Any] = {"models": ["server/words"], "lengths": [500, 900], "depths": [0.5], "reshuffles": 2}
    return config(folder, name, **(few | fields))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Provider]:
    """One sweep of two models, each in its own tokens: its folder (with `run`, `cache` and the config) and what the servers saw."""
    folder, provider = tmp_path_factory.mktemp("own"), Provider(words=by_words, pairs=by_pairs())
    with ChatServer(provider) as server:
        (folder / "port").write_text(re.findall(r":(\d+)/", server.url)[0])
        done = here("sweep", config(folder), "--base-url", server.url, "--out", folder / "run", NIAH_CACHE=str(folder / "cache"))
    assert done.returncode == 0, done.stderr
    for model in ("words", "pairs"):
        assert f"server/{model}: 24 texts fitted to its own tokens" in done.stdout
        assert f"server/{model} reported" in done.stdout
    assert "longer than asked" not in done.stdout
    return folder, provider


def test_every_prompt_fits_and_most_come_close(swept: tuple[Path, Provider]) -> None:
    """By the model's own count: never above the asked length, and at most lengths within a percent or two below it."""
    records = list(read(swept[0] / "run"))
    assert len(records) == 2 * len(LENGTHS) * len(DEPTHS) * RESHUFFLES
    shares: dict[tuple[str, int], list[float]] = defaultdict(list)
    for record in records:
        assert record.reply is not None
        assert record.reply.usage.input is not None
        shares[record.model, record.trial.length].append(record.reply.usage.input / record.trial.length)
    for (model, length), each in shares.items():
        assert max(each) <= 1, (model, length)
        assert median(each) >= {1000: 0.955, 2000: 0.98, 4000: 0.99, 8000: 0.99}[length], (model, length)
        assert min(each) >= 1 - 0.025 - 60 / length, (model, length)  # and a sentence


def test_few_counts_are_asked(swept: tuple[Path, Provider]) -> None:
    """A text is counted once, or twice where the first guess was far off: far less often than there are trials."""
    texts = len(LENGTHS) * RESHUFFLES
    for counted in swept[1].counted.values():
        assert len(counted) == len(set(counted))
        assert texts <= len(counted) <= 1.7 * texts


def test_two_models_get_prompts_of_their_own_and_the_keys_say_so(swept: tuple[Path, Provider]) -> None:
    """What decides the bytes is in the trial: no key is shared between prompts that differ."""
    folder, provider = swept
    records = list(read(folder / "run"))
    keys = {model: {record.trial.key for record in records if record.model == model} for model in ("server/words", "server/pairs")}
    assert not keys["server/words"] & keys["server/pairs"]
    assert not set(provider.asked["words"]) & set(provider.asked["pairs"])
    assert {record.trial.tokenizer for record in records} == {"provider"}
    for record in records:
        assert record.trial.fitted_length is not None
        assert record.tokens <= record.trial.fitted_length
        assert Record.from_json(record.to_json()) == record


def server_again(folder: Path, provider: Provider) -> ChatServer:
    """A server at the address of the first: counts that are kept belong to an address."""
    return ChatServer(provider, port=int((folder / "port").read_text()))


def test_the_second_time_nothing_is_counted(swept: tuple[Path, Provider], tmp_path: Path) -> None:
    """The same experiment in another folder: the same prompts, from counts that were kept."""
    folder, first = swept
    second = Provider(**first.rules)
    with server_again(folder, second) as server:
        done = here("sweep", folder / "own.toml", "--base-url", server.url, "--out", tmp_path / "run", NIAH_CACHE=str(folder / "cache"))
    assert done.returncode == 0, done.stderr
    assert not second.counted
    assert second.asked == first.asked


def test_a_resumed_run_asks_the_same_prompts_without_counting(swept: tuple[Path, Provider], tmp_path: Path) -> None:
    """Also where the kept counts are lost, and nobody counts any more: run.json holds what came of them."""
    folder, first = swept
    run, second = tmp_path / "run", Provider(**first.rules)
    second.trouble = lambda asked: failure(404) if asked.path == "/tokenize" else None
    shutil.copytree(folder / "run", run)
    kept = lines(run)[::2]
    (run / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    with ChatServer(second) as server:
        done = here("sweep", folder / "own.toml", "--base-url", server.url, "--out", run, NIAH_CACHE=str(tmp_path / "empty"))
    assert done.returncode == 0, done.stderr
    assert sum(map(len, second.asked.values())) == len(kept)
    for model, prompts in second.asked.items():
        assert prompts.items() <= first.asked[model].items()
    assert {(line["model"], line["key"]) for line in lines(run)} == {(line["model"], line["key"]) for line in lines(folder / "run")}


def test_counting_survives_trouble(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals for the rate, faults and cut connections at the count endpoint: counted again, and everything asked."""
    hurry(monkeypatch, 50)
    provider, calls = Provider(words=by_words), 0

    def trouble(asked: Asked) -> Answer | None:
        nonlocal calls
        if asked.path != "/tokenize":
            return None
        calls += 1
        return {1: failure(429, retry_after="1"), 2: failure(429), 3: failure(500), 5: Answer(reset=True)}.get(calls % 6)

    provider.trouble = trouble
    with ChatServer(provider) as server:
        done = here("sweep", small(folder), "--base-url", server.url, "--out", "run", NIAH_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert calls > len(provider.counted["words"]) >= 4
    assert all(tokens <= 900 for tokens in provider.asked["words"].values())


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        (failure(404, {"detail": "Not Found"}), 2, "--tokenizer niah-8k"),
        (failure(405, {"detail": "Method Not Allowed"}), 2, "--tokenizer niah-8k"),
        (Answer(body={"tokens": []}), 2, "--tokenizer niah-8k"),  # llama.cpp's answer to vLLM's question
        (Answer(body={"count": 0}), 2, "--tokenizer niah-8k"),
        (failure(400, {"error": {"message": "messages: unknown field"}}), 2, "unknown field"),
        (failure(401, {"error": {"message": "bad key"}}), 4, "NIAH_SERVER_KEY"),
        (failure(500), 4, "500"),
    ],
)
def test_where_nobody_counts(answer: Answer, code: int, told: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep ends before its first trial, in one or two lines that say what to do."""
    hurry(monkeypatch, 200)
    provider = Provider(words=by_words)
    provider.trouble = lambda asked: answer if asked.path == "/tokenize" else None
    with ChatServer(provider) as server:
        done = here("sweep", small(folder), "--base-url", server.url, "--out", "run", NIAH_CACHE="cache")
    assert (done.returncode, told in done.stderr) == (code, True), done.stderr
    assert not provider.asked
    assert not Path("run/trials.jsonl").exists()


@pytest.mark.parametrize("model", ["baseline/bm25", "ollama/llama", "openrouter/a/b"])
@pytest.mark.parametrize("verb", ["sweep", "plan"])
def test_models_that_cannot_be_counted_are_known_before_anything_is_sent(model: str, verb: str, folder: Path) -> None:
    done = here(verb, small(folder), "--model", model, OPENROUTER_API_KEY="sk-test-0123456789")
    assert done.returncode == 2
    assert model in done.stderr
    assert "--tokenizer niah-8k" in done.stderr


def test_a_plan_says_whether_tokens_are_counted(swept: tuple[Path, Provider], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No request, no key: with counts that are known it checks the prompts of the sweep, else it says what it takes instead."""
    folder, _ = swept
    url = f"http://127.0.0.1:{(folder / 'port').read_text()}/v1"
    made = load_experiment(str(folder / "own.toml"), {"base_url": url})
    monkeypatch.setenv("NIAH_CACHE", str(folder / "cache"))
    assert not any("niah-8k" in line for line in overview(made)["unknown"])
    monkeypatch.setenv("NIAH_CACHE", str(tmp_path / "none"))
    assert sum("niah-8k" in line for line in overview(made)["unknown"]) == 2
    shown = here("plan", folder / "own.toml", "--base-url", url)
    assert "tokens of server/words: the sweep counts them first" in shown.stdout


def test_one_prompt_says_whose_tokens_it_has(swept: tuple[Path, Provider], tmp_path: Path) -> None:
    folder, first = swept
    text = (folder / "own.toml").read_text()
    own = folder / "addressed.toml"
    own.write_text(f'base_url = "http://127.0.0.1:{(folder / "port").read_text()}/v1"\n{text}')
    known = here("prompt", own, "--format", "json", NIAH_CACHE=str(folder / "cache"))
    unknown = here("prompt", own, "--format", "json", NIAH_CACHE=str(tmp_path))
    assert "as long as server/words gets it" in known.stderr
    assert "not counted yet" in unknown.stderr
    assert json.loads(unknown.stdout)["tokens"] <= 1000
    messages = json.loads(known.stdout)["messages"]
    assert 950 <= TEMPLATE_TOKENS + sum(first.rules["words"](message["content"]) for message in messages) <= 1000


def test_lengths_above_the_window_are_overflow_and_no_error(folder: Path, tmp_path: Path) -> None:
    """The count endpoint refuses them as the model does; what fits is fitted."""
    provider, window = Provider(words=by_words), 1000

    def trouble(asked: Asked) -> Answer | None:
        above = provider.tokens("words", asked.messages) > window
        return failure(400, {"error": {"message": f"maximum context length is {window} tokens"}}) if above else None

    provider.trouble = trouble
    config = small(folder, lengths=[900, 3000])
    with ChatServer(provider) as server:
        done = here("sweep", config, "--base-url", server.url, "--out", "run", NIAH_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    outcomes = {(line["trial"]["length"], (line["error"] or {}).get("kind")) for line in lines(Path("run"))}
    assert outcomes == {(900, None), (3000, "context_overflow")}
    assert max(provider.asked["words"].values()) <= 900


def test_a_length_that_cannot_be_made_is_told_in_both_tokens(folder: Path) -> None:
    provider = Provider(words=by_words)
    with ChatServer(provider) as server:
        done = here("sweep", small(folder, lengths=[120]), "--base-url", server.url, NIAH_CACHE="cache")
    assert done.returncode == 2
    assert "ask for lengths of at least" in done.stderr
    assert "are about 120 of the model's own" in done.stderr
    assert not provider.asked


def test_a_provider_that_reports_more_than_it_counted_is_told(folder: Path, tmp_path: Path) -> None:
    provider = Provider(words=by_words)
    with ChatServer(provider) as server:
        provider.trouble = lambda asked: (
            None if asked.path == "/tokenize" else completion("No.", usage={"prompt_tokens": provider.tokens("words", asked.messages) + 90})
        )
        done = here("sweep", small(folder), "--base-url", server.url, "--out", "run", NIAH_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert "; 4 were longer than asked" in done.stdout


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    made = {"corpora": ["builtin/financial"], "lengths": [1000, 3000], "depths": [0.2, 0.8], "reshuffles": 2, "tokenizer": "provider"}
    shared = load_experiment("quickstart", made)
    independent = load_experiment("quickstart", made).model_copy(update={"haystack": "independent"})
    return {"shared": Plan(shared, gather(shared)), "independent": Plan(independent, gather(independent))}


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["shared", "independent"]), st.floats(0.3, 1.6), st.floats(0, 0.2), st.integers(0, 120))
def test_whatever_a_tokenizer_weighs_no_text_is_too_long(
    plans: dict[str, Plan], haystack: str, a_word: float, a_letter: float, template: int
) -> None:
    """Tokenizers that count words, letters and marks of their own: what was counted comes close, and every trial fits."""
    plan = plans[haystack]

    def tokens(prompt: Prompt) -> int:
        text = " ".join(message["content"] for message in prompt.messages())
        return template + math.ceil(a_word * len(re.findall(r"\w+|[^\w\s]", text)) + a_letter * len(text))

    async def count(prompt: Prompt) -> int:
        return tokens(prompt)

    fits = asyncio.run(fit(plan, ("user",), count))
    assert len(fits) == {"shared": 4, "independent": 8}[haystack]
    fitted = plan.fitted({(each.reshuffle, each.length, each.depth): each.fitted_length for each in fits})
    for trial in fitted.trials(("user",)):
        share = tokens(plan.materials.maker.make(trial)) / trial.length
        assert share <= 1
        assert share >= 1 - 0.02 - 90 / trial.length


def test_a_trial_in_named_tokens_has_the_key_that_it_always_had(plans: dict[str, Plan]) -> None:
    """The field is new: where it is not set, neither keys nor lines of records change."""
    trial = next(plans["shared"].trials(("user",)))
    assert trial.fitted_length is None
    assert "fitted_length" not in trial.to_json()
    longer = replace(trial, fitted_length=trial.length + 1)
    assert longer.key != trial.key
    assert Trial.from_json(longer.to_json()) == longer
