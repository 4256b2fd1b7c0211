"""What a sweep counts as a hit, a miss or neither: overflows, refusals, filters, cut answers, reasoning, truncated prompts, odd requests."""

from pathlib import Path

import pytest

from niah.run.store import read
from niah.run.truncation import Truncation
from niah.trial import Reply, Usage, outcome
from tests.chat_server import Answer, Asked, ChatServer, completion, failure
from tests.report.records import trial as any_trial
from tests.run.command import cells, found, here, lines, summary, write_config


def test_a_context_overflow_is_an_outcome_of_its_own(folder: Path) -> None:
    """Prompts of 500 tokens do not fit: no miss, no score, the sweep goes on, ends with exit 0, and a resume does not ask them again."""
    config = write_config(folder)

    def answer(asked: Asked) -> str | Answer:
        overflow = failure(400, {"error": {"message": "This model's maximum context length is 400 tokens"}})
        return overflow if len(asked.user) > 1450 else found(asked)

    with ChatServer(answer) as server:
        words = ("sweep", config, "--base-url", server.url, "--out", "run")
        done = here(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(server.log) == 18
        assert here(*words).returncode == 0
        assert len(server.log) == 18
    errors = [line for line in lines(folder / "run") if line["error"]]
    assert {line["error"]["kind"] for line in errors} == {"context_overflow"}
    assert all(line["scores"] == [] and line["reply"] is None for line in errors)
    assert {line["trial"]["length"] for line in errors} == {500}
    for row in cells(folder / "run"):
        wanted = ("1.0", "3", "0") if row["length"] == "300" else ("", "0", "3")
        assert (row["recall"], row["trials"], row["overflow"]) == wanted
        assert row["errors"] == "0"


def test_refusals_and_filtered_answers_are_counted_apart(folder: Path) -> None:
    """message.refusal and finish_reason content_filter: refused, without score, even where the words of the answer stand in them."""
    config = write_config(folder, lengths=[300], reshuffles=2)

    def answer(asked: Asked) -> Answer:
        answers = [
            completion(None, refusal=f"I cannot say that {found(asked)}"),
            completion(found(asked), finish="content_filter"),
            completion(found(asked)),
        ]
        return answers[asked.number % 3]

    with ChatServer(answer) as server:
        done = here("sweep", config, "--base-url", server.url, "--out", "run", "--concurrency", "1")
    assert done.returncode == 0, done.stderr
    told = summary(folder / "run")["server/m"]
    assert (told["trials"], told["refused"], told["recall"]) == (2, 4, 1.0)


@pytest.mark.parametrize(
    "filtered",
    [
        failure(400, {"error": {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}, "message": "filtered"}}),
        failure(403, {"error": {"message": "Your chosen model requires moderation and your input was flagged"}}),
    ],
)
def test_prompts_that_a_filter_turns_away_are_refused_and_stop_nothing(folder: Path, filtered: Answer) -> None:
    """Every second one, the first included: no error, no miss, not asked again, and exit 0."""
    config = write_config(folder, reshuffles=4)
    with ChatServer(lambda asked: filtered if asked.number % 2 == 0 else found(asked)) as server:
        words = ("sweep", config, "--base-url", server.url, "--out", "run")
        done = here(*words)
        assert done.returncode == 0, done.stderr
        assert here(*words).returncode == 0
        assert len(server.log) == 24
    told = summary(folder / "run")["server/m"]
    assert (told["trials"], told["refused"], told["errors"], told["recall"]) == (12, 12, 0, 1.0)


def test_an_answer_cut_at_the_cap_is_a_hit_or_unknown_but_never_a_miss(folder: Path) -> None:
    """finish_reason length: with all key facts a hit, without them cut; also for an empty answer of a model that was still thinking."""
    config = write_config(folder, lengths=[300], reshuffles=3)

    def answer(asked: Asked) -> Answer:
        texts = [found(asked), "The text speaks of", None]
        return completion(texts[asked.number % 3], finish="length", reasoning_content=f"Perhaps {found(asked)}")

    with ChatServer(answer) as server:
        done = here("sweep", config, "--base-url", server.url, "--out", "run", "--concurrency", "1")
    assert done.returncode == 0, done.stderr
    told = summary(folder / "run")["server/m"]
    assert (told["trials"], told["cut"], told["recall"]) == (3, 6, 1.0)


def test_reasoning_is_no_answer(folder: Path) -> None:
    """The needle in <think> tags or in reasoning_content only is a miss; reasoning before a right answer does no harm."""
    config = write_config(folder, lengths=[300], reshuffles=2)

    def answer(asked: Asked) -> Answer:
        answers = [
            completion(f"<think>{found(asked)}</think>I do not know."),
            completion("I do not know.", reasoning_content=found(asked)),
            completion(f"<think>Hm, is it Bob?</think>{found(asked)}", reasoning="Hm"),
        ]
        return answers[asked.number % 3]

    with ChatServer(answer) as server:
        done = here("sweep", config, "--base-url", server.url, "--out", "run", "--concurrency", "1")
    assert done.returncode == 0, done.stderr
    told = summary(folder / "run")["server/m"]
    assert (told["trials"], told["recall"]) == (6, round(1 / 3, 6))


@pytest.mark.parametrize("added", [0, 30, 70])
def test_a_prompt_that_the_server_cut_in_silence_is_no_miss(folder: Path, added: int) -> None:
    """prompt_tokens never above 600: the long prompts count as truncated, also when the run was stopped and resumed before them."""
    config = write_config(folder, lengths=[300, 450, 1100], depths=[0, 1], reshuffles=4)
    known: dict[str, int] = {}

    def answer(asked: Asked) -> Answer:
        tokens = round(len(asked.user) / 4.2) + added
        known[asked.id] = tokens
        if asked.number == 4:  # the next prompt is the first long one
            return failure(401)
        cut = tokens > 600
        return completion("I do not know." if cut else found(asked), usage={"prompt_tokens": min(tokens, 600), "completion_tokens": 4})

    with ChatServer(answer) as server:
        words = ("sweep", config, "--base-url", server.url, "--out", "run", "--concurrency", "1")
        assert here(*words).returncode == 4
        done = here(*words)
    assert done.returncode == 0, done.stderr
    rows = {(row["length"], row["depth"]): row for row in cells(folder / "run")}
    for (length, _), row in rows.items():
        wanted = ("", "0", "4") if length == "1100" else ("1.0", "4", "0")
        assert (row["recall"], row["trials"], row["truncated"]) == wanted
    assert all(line["scores"] == [] for line in lines(folder / "run") if line["trial"]["length"] == 1100)


def test_even_the_first_prompts_that_a_server_cut_are_no_misses(folder: Path) -> None:
    """The server's window is below the shortest length: with nothing to compare with, its first answers were scored at first."""
    config = write_config(folder, lengths=[500, 900, 1500], depths=[0, 1], reshuffles=4)

    def answer(asked: Asked) -> Answer:
        tokens = min(round(len(asked.user) / 4.2), 400)
        return completion("I do not know.", usage={"prompt_tokens": tokens, "completion_tokens": 4})

    with ChatServer(answer) as server:
        done = here("sweep", config, "--base-url", server.url, "--out", "run", "--concurrency", "1")
    assert done.returncode == 3, done.stderr
    assert "earlier answers are not scored after all" in done.stdout
    assert {(row["recall"], row["trials"], row["truncated"]) for row in cells(folder / "run")} == {("", "0", "4")}


def test_tables_of_numbers_do_not_look_like_truncation() -> None:
    """Three digits a token there, one here: a low ratio, but no more characters a token than prose has."""
    truncation = Truncation()
    prose = Reply(text="", usage=Usage(input=1000))
    assert not truncation.happened(any_trial(1000), 1000, 4200, prose)
    assert not truncation.happened(any_trial(1000), 1000, 1500, Reply(text="", usage=Usage(input=600)))
    assert truncation.happened(any_trial(1000), 1000, 4200, Reply(text="", usage=Usage(input=600)))


def test_words_that_a_server_adds_do_not_look_like_truncation() -> None:
    """A server with a preamble of 70 tokens reports a third more for short prompts: the long ones are whole all the same."""
    truncation = Truncation()
    for length in (200, 300, 1_000, 16_000):
        reply = Reply(text="", usage=Usage(input=length + 70))
        assert not truncation.happened(any_trial(length), length, 4 * length, reply)
    assert truncation.happened(any_trial(16_000), 16_000, 64_000, Reply(text="", usage=Usage(input=8_192)))
    assert not truncation.happened(any_trial(16_000), 16_000, 64_000, Reply(text=""))
    first = Truncation()  # nothing to compare with yet: no text has so many characters a token
    assert first.happened(any_trial(16_000), 16_000, 64_000, Reply(text="", usage=Usage(input=4_096)))


def test_usage_and_served_name_are_recorded(folder: Path) -> None:
    """Input, cached, output and reasoning tokens as the server says."""
    config = write_config(folder, lengths=[300], depths=[0], reshuffles=1)
    usage = {
        "prompt_tokens": 310,
        "completion_tokens": 25,
        "prompt_tokens_details": {"cached_tokens": 128},
        "completion_tokens_details": {"reasoning_tokens": 9},
    }
    with ChatServer(lambda asked: completion(found(asked), usage=usage)) as server:
        assert here("sweep", config, "--base-url", server.url, "--out", "run").returncode == 0
    (line,) = lines(folder / "run")
    assert line["reply"]["usage"] == {"input": 310, "cached": 128, "output": 25, "reasoning": 9}
    assert line["reply"]["model"] == "served-model"
    assert set(line) == {"format", "model", "key", "trial", "tokens", "placements", "reply", "scores", "error", "at"}


def test_an_odd_request_in_the_middle_is_recorded_and_asked_again(folder: Path) -> None:
    """One trial is refused with 400: exit 3, everything else answered; the same command asks that one only."""
    config = write_config(folder)
    with ChatServer(lambda asked: failure(400) if asked.number == 7 else found(asked)) as server:
        words = ("sweep", config, "--base-url", server.url, "--out", "run")
        first = here(*words)
        assert first.returncode == 3
        assert "1 failed" in first.stdout
        assert "answered 400: it failed." in first.stderr
        assert summary(folder / "run")["server/m"]["errors"] == 1
        odd = server.log[7].id
        second = here(*words)
        assert second.returncode == 0, second.stderr
    assert len(server.log) == 19
    assert server.log[-1].id == odd
    told = summary(folder / "run")["server/m"]
    assert (told["trials"], told["errors"], told["recall"]) == (18, 0, 1.0)


def test_prompts_that_are_refused_one_by_one_are_no_server_out_of_reach(folder: Path) -> None:
    """Twelve doomed prompts, asked one after the other at the end of a sweep, in it and by themselves: exit 3, all others answered."""
    config = write_config(folder, lengths=[300, 900], depths=[0, 0.5, 1], reshuffles=4)
    refused = failure(400, {"error": {"message": "I do not like this prompt"}})
    with ChatServer(lambda asked: refused if len(asked.user) > 2500 else found(asked)) as server:
        words = ("sweep", config, "--base-url", server.url, "--out", "run", "--concurrency", "1")
        assert here(*words, "--lengths", "300", "--out", "short").returncode == 0
        independent = write_config(folder, name="own", lengths=[300, 900], depths=[0, 0.5, 1], reshuffles=4, haystack="independent")
        done = here("sweep", independent, *words[2:])
        assert done.returncode == 3, done.stderr
        assert len([line for line in lines(folder / "run") if line["error"]]) == 12
        asked = len(server.log)
        again = here("sweep", independent, *words[2:])
        assert again.returncode == 3, again.stderr
        assert len(server.log) - asked == 12
        server.answer = found
        assert here("sweep", independent, *words[2:]).returncode == 0


def test_a_stubborn_failure_does_not_keep_a_resume_from_the_rest(folder: Path) -> None:
    """500 for all prompts of one length: the run stops; resumes ask new trials before those that failed, and come to the end."""
    config = write_config(folder, lengths=[300, 500], depths=[n / 8 for n in range(9)], reshuffles=3)

    def answer(asked: Asked) -> str | Answer:
        return failure(500, retry_after="500") if len(asked.user) > 1450 else found(asked)

    with ChatServer(answer) as server:
        for _ in range(8):
            done = here("sweep", config, "--base-url", server.url, "--out", "run", "--concurrency", "1")
            if len({line["key"] for line in lines(folder / "run")}) == 54:
                break
    assert done.returncode in (3, 4)
    assert len({line["key"] for line in lines(folder / "run") if line["reply"]}) == 27


def test_half_a_surrogate_pair_goes_through_a_whole_sweep(folder: Path) -> None:
    """An answer that ends in half a pair is scored, stored, read and reported."""
    config = write_config(folder, lengths=[300], depths=[0], reshuffles=1)
    with ChatServer(lambda asked: completion(f"{found(asked)} \ud83d")) as server:
        words = ("sweep", config, "--base-url", server.url, "--out", "run")
        assert here(*words).returncode == 0
        assert here("report", "run").returncode == 0
    (record,) = read(folder / "run")
    assert record.reply is not None
    assert record.reply.text.endswith(" \ud83d")
    assert outcome(record) == "hit"
