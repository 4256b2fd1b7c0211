"""The BM25 reader, and the fake backend of the tests."""

import asyncio

from niah.backends import open_backend
from niah.backends.fake import FakeBackend
from niah.trial import Prompt, Reply, Sampling


def prompt(context: str, question: str) -> Prompt:
    return Prompt(
        system="",
        context=context,
        question=question,
        cue="",
        cue_mode="off",
        layout="{context}{question}",
        tokens=1,
        placements=(),
        sampling=Sampling(),
    )


def test_bm25_returns_the_sentence_that_shares_rare_words_with_the_question() -> None:
    """Of all sentences the one with the question's rare words."""
    context = "The mill stands by the river. The bell tower was finished by Hob Grindrel. The river is wide. The mill is old."
    answer = asyncio.run(open_backend("baseline/bm25").ask(prompt(context, "Who finished the bell tower?")))
    assert answer.text.strip() == "The bell tower was finished by Hob Grindrel."
    assert answer.stop == "end"


def test_bm25_answers_even_where_nothing_matches() -> None:
    """A question that shares no word with the text, or holds only stop words, still gets some sentence."""
    for context in ("One sentence here. Another sentence there.", "It is. He was.", "?", ""):
        for question in ("Zyxx qwop?", "Who is it?", "?"):
            answer = asyncio.run(open_backend("baseline/bm25").ask(prompt(context, question)))
            assert answer.text.strip() in context


def test_the_fake_backend_answers_from_a_function_and_remembers() -> None:
    """Plain and async functions; the prompts asked are kept."""

    async def later(asked: Prompt) -> Reply:
        return Reply(text=f"later {asked.question}")

    one = prompt("text", "q")
    plain, slow = FakeBackend(lambda asked: Reply(text="now")), FakeBackend(later)
    assert asyncio.run(plain.ask(one)).text == "now"
    assert asyncio.run(slow.ask(one)).text == "later q"
    assert plain.asked == slow.asked == [one]
    asyncio.run(plain.close())
