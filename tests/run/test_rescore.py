"""Stored answers looked at again: other scorers, a judge on loopback, reports over several runs."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from niah.run.store import read
from tests.chat_server import Answer, Asked, ChatServer, completion, failure
from tests.hurry import hurry
from tests.run.command import cells, found, here, lines, summary, write_config


@pytest.fixture
def run(folder: Path) -> Path:
    """A finished run of 18 trials: a third right, a third nearly right or half of it, a third wrong."""
    config = write_config(folder)
    turns: Counter[str] = Counter()

    def answer(asked: Asked) -> Answer:
        sentence = found(asked)
        turns[sentence] += 1
        half = (
            "There are 3,846 prisms."
            if "3,846" in sentence
            else sentence.replace("Grindrel", "Grindral").replace("Plessowick", "Plessowik")
        )
        return completion([sentence, half, "Nobody knows \ud83d."][turns[sentence] % 3])

    with ChatServer(answer) as server:
        done = here("sweep", config, "--base-url", server.url, "--out", "run", "--concurrency", "1")
    assert done.returncode == 0, done.stderr
    return folder / "run"


def values(run: Path, scorer: str) -> list[float]:
    return [score["value"] for line in lines(run) for score in line["scores"] if score["scorer"] == scorer]


def test_rescoring_puts_the_new_scores_first_and_keeps_replies_and_old_scores(run: Path) -> None:
    """all-of-many, fuzzy and exact after contains: first in each record, and what summary.json then says."""
    before = [record.reply for record in read(run)]
    contains = values(run, "contains")
    assert sorted(set(contains)) == [0.0, 0.5, 1.0]
    for name in ("all-of-many", "fuzzy", "exact"):
        done = here("rescore", run, "--scorer", name)
        assert done.returncode == 0, done.stderr
        assert [line["scores"][0]["scorer"] for line in lines(run)] == [name] * 18
        assert summary(run)["server/m"]["recall"] == pytest.approx(sum(values(run, name)) / 18, abs=1e-6)
    assert values(run, "all-of-many") == [float(value == 1) for value in contains]
    assert all(near >= plain for near, plain in zip(values(run, "fuzzy"), contains, strict=True))
    assert sum(values(run, "fuzzy")) > sum(contains)
    assert sum(values(run, "exact")) == 6  # the needle's sentence and nothing else
    assert values(run, "contains") == contains
    assert [record.reply for record in read(run)] == before
    again = here("report", run, "--scorer", "contains")
    assert again.returncode == 0
    assert summary(run)["server/m"]["recall"] == pytest.approx(sum(contains) / 18, abs=1e-6)


def test_rescoring_leaves_a_run_that_can_be_resumed(run: Path) -> None:
    """After rescoring, the sweep's own command finds nothing to ask."""
    assert here("rescore", run, "--scorer", "all-of-many").returncode == 0
    with ChatServer(found) as server:
        assert here("sweep", "small.toml", "--base-url", server.url, "--out", run).returncode == 0
        assert not server.log


def by_facts(asked: Asked) -> str:
    """A judge that counts the key facts in the answer it is shown, generous with spelling."""
    shown = asked.user.split("<answer>")[1].split("</answer>")[0]
    facts = [line.split(". ", 1)[1] for line in asked.user.split("key facts:\n")[1].split("\n\n")[0].splitlines()]
    return f"**{sum(fact[:6].lower() in shown.lower() for fact in facts)}**"


def test_a_judge_gives_the_first_score(run: Path) -> None:
    """Asked once for each answer, at the address given; its numbers become the recall."""
    with ChatServer(by_facts) as server:
        done = here("rescore", run, "--scorer", "judge", "--judge", "server/judge", "--base-url", server.url)
    assert done.returncode == 0, done.stderr
    assert len(server.log) == 18
    assert {asked.body["model"] for asked in server.log} == {"judge"}
    assert [line["scores"][0]["scorer"] for line in lines(run)] == ["judge"] * 18
    assert summary(run)["server/m"]["recall"] == pytest.approx(sum(values(run, "judge")) / 18, abs=1e-6)
    assert sum(values(run, "judge")) > sum(values(run, "contains"))


def test_a_judge_that_fails_in_the_middle_keeps_its_verdicts(run: Path) -> None:
    """The judge's money runs out after seven verdicts: exit 4, seven are kept, and the same command asks for the other eleven."""
    with ChatServer(lambda asked: by_facts(asked) if asked.number < 7 else failure(402)) as server:
        words = ("rescore", run, "--scorer", "judge", "--judge", "server/judge", "--base-url", server.url)
        done = here(*words)
        assert done.returncode == 4
        assert "funds" in done.stderr
        assert len(values(run, "judge")) == 7
        assert len(values(run, "contains")) == 18
        server.answer = by_facts
        asked = len(server.log)
        assert here(*words).returncode == 0
        assert len(server.log) - asked == 11
    assert len(values(run, "judge")) == 18


def test_a_judge_is_paced_has_a_key_of_its_own_and_a_cap(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """429s slow it down and lose nothing; the key comes from the variable named; a cap stops it with exit 4 and its verdicts kept."""
    hurry(monkeypatch, 100)
    (run.parent / "own.toml").write_text('[models."server/judge"]\nprice = {input = 100.0, output = 400.0}\n', encoding="utf-8")
    own = {"NIAH_MODELS": str(run.parent / "own.toml"), "OUR_KEY": "our-key-0123456789"}
    usage = {"prompt_tokens": 150, "completion_tokens": 4}
    words = ("rescore", run, "--scorer", "judge", "--judge", "server/judge", "--key-variable", "OUR_KEY")
    with ChatServer(lambda asked: completion(by_facts(asked), usage=usage, delay=0.01)) as server:
        capped = here(*words, "--base-url", server.url, "--max-cost", "1", **own)
        assert capped.returncode == 4, capped.stderr
        assert "--max-cost $1.00" in capped.stderr
        kept = len(values(run, "judge"))
        assert len(server.log) == kept
        assert 0 < kept < 18
        limited = failure(429, {"error": {"message": "slow down"}}, retry_after="1")
        server.answer = lambda asked: limited if asked.number % 3 == 0 else completion(by_facts(asked), usage=usage)
        assert here(*words, "--base-url", server.url, **own).returncode == 0
        assert {asked.headers["authorization"] for asked in server.log} == {"Bearer our-key-0123456789"}
        first = here(*words[:-1], "NO_SUCH_VARIABLE", "--base-url", server.url)
    assert len(values(run, "judge")) == 18
    assert first.returncode == 4
    assert "NO_SUCH_VARIABLE" in first.stderr


@pytest.mark.parametrize("verdict", ["three", "7", "1 or 2", "", "-"])
def test_a_verdict_that_is_none_is_no_miss(run: Path, verdict: str) -> None:
    """One answer gets no number from the judge: it counts as missing, not as a miss and not by another scorer."""
    with ChatServer(lambda asked: verdict if asked.number == 3 else "0") as server:
        done = here("rescore", run, "--scorer", "judge", "--judge", "server/judge", "--base-url", server.url)
    assert done.returncode == 0, done.stderr
    told = summary(run)["server/m"]
    assert (told["trials"], told["missing"], told["recall"]) == (17, 1, 0.0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--scorer", "judge"], "--judge"),
        (["--scorer", "judge", "--judge", "server/m", "--base-url", "http://127.0.0.1:1/v1"], "cannot judge itself"),
        (["--scorer", "judge", "--judge", "server/other"], "--base-url"),
        (["--scorer", "contians"], "contains"),
    ],
)
def test_a_wrong_rescoring_is_refused_and_changes_nothing(run: Path, words: list[str], told: str) -> None:
    """The tested model as its own judge, no judge, no address, an unknown scorer: exit 2, the file as it was."""
    before = (run / "trials.jsonl").read_bytes()
    done = here("rescore", run, *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert (run / "trials.jsonl").read_bytes() == before


def sweep(folder: Path, name: str, answer: Callable[[Asked], str], **fields: object) -> Path:
    config = write_config(folder, **{"reshuffles": 2, "lengths": [300], **fields})
    with ChatServer(answer) as server:
        done = here("sweep", config, "--base-url", server.url, "--out", name)
    assert done.returncode == 0, done.stderr
    return folder / name


def test_a_report_over_two_runs_pools_what_belongs_together(folder: Path) -> None:
    """Two models from two runs side by side; two seeds of one model pooled; the runs' own files untouched."""
    good = sweep(folder, "good", found, models=["server/good"])
    bad = sweep(folder, "bad", lambda _: "Nobody knows.", models=["server/bad"])
    other = sweep(folder, "other", lambda _: "Nobody knows.", models=["server/good"], seed=5)
    before = [(path / "summary.json").read_bytes() for path in (good, bad, other)]
    done = here("report", good, bad, other, "--out", "both")
    assert done.returncode == 0, done.stderr
    told = summary(folder / "both")
    assert (told["server/good"]["recall"], told["server/good"]["trials"], told["server/good"]["missing"]) == (0.5, 12, 0)
    assert (told["server/bad"]["recall"], told["server/bad"]["trials"], told["server/bad"]["missing"]) == (0.0, 6, 0)
    assert (folder / "both" / "heatmap.png").stat().st_size > 1000
    assert [(path / "summary.json").read_bytes() for path in (good, bad, other)] == before


def test_the_same_experiment_in_two_folders_counts_once(folder: Path) -> None:
    """Equal trials of a model are one trial: nothing is pooled twice and nothing seems missing."""
    first, second = sweep(folder, "first", found), sweep(folder, "second", found)
    done = here("report", first, second, "--out", "both")
    assert done.returncode == 0, done.stderr
    told = summary(folder / "both")["server/m"]
    assert (told["trials"], told["missing"], told["recall"]) == (6, 0, 1.0)
    assert sum(int(row["trials"]) for row in cells(folder / "both")) == 6


def test_a_report_of_an_unfinished_run_says_what_is_missing(folder: Path) -> None:
    """Five of eighteen answered: 13 missing, in the summary and in the cells."""
    config = write_config(folder)
    with ChatServer(lambda asked: found(asked) if asked.number < 5 else failure(401)) as server:
        assert here("sweep", config, "--base-url", server.url, "--out", "run", "--concurrency", "1").returncode == 4
    done = here("report", "run")
    assert done.returncode == 0, done.stderr
    told = summary(folder / "run")["server/m"]
    assert (told["trials"], told["missing"]) == (5, 13)
    assert sum(int(row["missing"]) for row in cells(folder / "run")) == 13


def test_what_is_no_run_is_refused(folder: Path) -> None:
    """No folder, an empty folder, a folder with a broken run.json: exit 2 and a line."""
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "run.json").write_text("{")
    for name in ("nowhere", "empty", "broken"):
        for words in (("report", name), ("rescore", name, "--scorer", "exact")):
            done = here(*words)
            assert done.returncode == 2, words
            assert name in done.stderr
    assert not (folder / "nowhere").exists()
