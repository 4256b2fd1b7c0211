"""Prompts: golden bytes, templates, cues, distractors. `pytest tests/task/test_prompt.py`

When a golden hash changes on purpose, raise ASSEMBLY in niah/task/prompt.py (or sentences.VERSION, or the grammars' version in task/corpus.py): stored runs then know it.
"""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from niah.config import load_experiment
from niah.errors import CorpusError, UsageError
from niah.run.plan import Plan, gather
from niah.task.prompt import CUE, TEMPLATES, load_template
from niah.trial import Prompt, Trial, canonical

FILES = {
    "a.txt": "The ferry left at noon. It was late, as Mr. Hale said. Nobody minded.\n\nA second paragraph follows. It is short.",
    "b.md": "# Rates\n\nThe rate rose to 4.25 per cent. Sales fell. “Why?” he asked. Costs were stable in the U.S. and abroad.",
    "c.jsonl": '{"id": "x", "text": "A court may hear the appeal. See id., at 12. The rule is plain."}\n{"text": "Patients (n = 12) improved. None died."}',
}
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
GOLDEN = "cadddf6f92909197"
GOLDEN_BUILTIN = "6e9bd9801cbd4c9a"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text("\n".join([text] * 3), encoding="utf-8")
    return tmp_path


def plan_of(**overrides: Any) -> Plan:
    overrides = {"lengths": [400], "depths": [0, 0.5, 1], "reshuffles": 4, **overrides}
    experiment = load_experiment("quickstart", overrides)
    return Plan(experiment, gather(experiment))


def prompts_of(**overrides: Any) -> list[tuple[Trial, Prompt]]:
    plan = plan_of(**overrides)
    cue = overrides.get("cue", "user")
    return [(trial, plan.materials.maker.make(trial)) for trial in plan.trials((cue,))]


def digest(prompts: list[tuple[Trial, Prompt]]) -> str:
    lines = [canonical([prompt.messages(), prompt.tokens]) for _, prompt in prompts]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def test_golden_bytes_of_files(corpus: Path) -> None:
    """The committed hash holds on every machine and Python: prompts from a user's files."""
    assert digest(prompts_of(corpora=[str(corpus)], lengths=[210], needles="san-francisco", seed=7)) == GOLDEN


def test_golden_bytes_of_the_builtin_corpora() -> None:
    """The committed hash holds on every machine and Python: prompts from the built-in corpora."""
    assert digest(prompts_of(lengths=[300, 1000])) == GOLDEN_BUILTIN


def test_two_processes_make_the_same_bytes_and_two_seeds_do_not() -> None:
    """Equal seeds give equal prompts in another process (with another hash seed); other seeds and reshuffles other text."""
    program = "from tests.task.test_prompt import digest, prompts_of; print(digest(prompts_of(seed=3)))"
    runs = [
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    here = prompts_of(seed=3)
    assert runs == [digest(here)] * 2
    assert digest(prompts_of(seed=4)) != digest(here)
    contexts = {prompt.context for trial, prompt in here if trial.depths == (0.0,)}
    assert len(contexts) == 4


def test_tokens_count_the_messages() -> None:
    """`tokens` is the sum over the contents of the messages, whatever the cue mode and the template."""
    tokenizer = plan_of().materials.tokenizer
    for cue in ("off", "user", "prefill"):
        for template in TEMPLATES:
            for trial, prompt in prompts_of(cue=cue, template=template, lengths=[300, 900]):
                assert prompt.tokens == sum(tokenizer.count(message["content"]) for message in prompt.messages())
                assert prompt.tokens <= trial.length


def test_the_cue_modes() -> None:
    off, user, prefill = (prompts_of(cue=cue)[0][1] for cue in ("off", "user", "prefill"))
    assert CUE not in str(off.messages())
    assert off.cue == ""
    assert user.messages()[-1]["role"] == "user"
    assert user.messages()[-1]["content"].endswith(f"?\n\n{CUE}")
    assert prefill.messages()[-1] == {"role": "assistant", "content": CUE}
    assert prefill.messages()[-2]["content"].endswith("?")


def test_the_question_first_template_asks_before_the_documents() -> None:
    prompt = prompts_of(template="question-first")[0][1]
    assert prompt.messages()[1]["content"].startswith(f"{prompt.question}\n\n")


def test_the_question_twice_template_asks_on_both_sides() -> None:
    prompt = prompts_of(template="question-twice", cue="off")[0][1]
    content = prompt.messages()[1]["content"]
    assert content == f"{prompt.question}\n\n{prompt.context}\n\n{prompt.question}"


def test_the_passkey_template_and_its_filler_leave_nothing_else_to_find() -> None:
    """As in the paper: a line that says that something is hidden, five sentences over and over, the key, the question."""
    for trial, prompt in prompts_of(template="passkey", corpora=["builtin/repeated"], needles="passkey", cue="off", lengths=[400, 12_000]):
        assert [message["role"] for message in prompt.messages()] == ["user"]
        assert prompt.messages()[0]["content"].endswith("\n\nWhat is the pass key?")
        number = trial.needles[0].removeprefix("pass-key-")
        before, found, after = prompt.context.partition(f"The pass key is {number}. Remember it. {number} is the pass key.")
        assert found
        rest, filler = [*before.split(), *after.split()], FILLER.split()
        assert rest == (filler * (len(rest) // len(filler) + 1))[: len(rest)]


def test_trials_with_different_cues_share_text_and_needles() -> None:
    plan = plan_of()
    off, user = (list(plan.trials((cue,))) for cue in ("off", "user"))
    assert [trial.needles for trial in off] == [trial.needles for trial in user]
    assert off[0].key != user[0].key
    shorter, longer = sorted((plan.materials.maker.make(trial[0]).context for trial in (off, user)), key=len)
    assert longer.startswith(shorter[: len(shorter) // 2])


def test_a_users_template(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('user = "<docs>{context}</docs>\\n{question} Answer:"', encoding="utf-8")
    prompt = prompts_of(template=str(path), cue="off")[0][1]
    assert [message["role"] for message in prompt.messages()] == ["user"]
    assert prompt.messages()[0]["content"].startswith("<docs>")
    assert prompt.messages()[0]["content"].endswith("? Answer:")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('user = "{question}"', "must hold {context} once"),
        ('user = "{context} {context} {question}"', "must hold {context} once"),
        ('usr = "x"', "no others"),
        ("user = 3", "both strings"),
        ("user = ", "no valid TOML"),
    ],
)
def test_a_wrong_template_says_what_is_wrong(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        load_template(str(path))


def test_an_unknown_template_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'question-first'"):
        load_template("question_first")
    with pytest.raises(UsageError, match="cannot be read"):
        load_template(str(tmp_path / "none.toml"))


def test_distractors_stand_beside_the_needle_and_do_not_answer() -> None:
    """Each near miss is in the context once, and the count stays exact."""
    plan = plan_of(distractors=3, lengths=[1500])
    needles = plan.materials.needles.by_id()
    for trial in plan.trials(("user",)):
        prompt = plan.materials.maker.make(trial)
        needle = needles[trial.needles[0]]
        assert [prompt.context.count(text) for text in (needle.text, *needle.distractors[:3])] == [1] * 4
        assert needle.distractors[3] not in prompt.context
        assert prompt.tokens == sum(plan.materials.tokenizer.count(message["content"]) for message in prompt.messages())


def test_more_distractors_than_a_needle_has_is_an_error() -> None:
    with pytest.raises(UsageError, match="has 4 distractors, 5 are asked for"):
        prompts_of(distractors=5, lengths=[2000])


def test_independent_haystacks_share_no_beginning() -> None:
    plan = plan_of(lengths=[500, 1000], depths=[0.0, 1.0], reshuffles=1)
    shared = [plan.materials.maker.make(trial).context for trial in plan.trials(("user",))]
    experiment = plan.experiment.model_copy(update={"haystack": "independent"})
    own = [plan.materials.maker.make(trial).context for trial in Plan(experiment, plan.materials).trials(("user",))]
    assert shared[1][:200] == shared[3][:200]
    assert len({context[-900:-400] for context in own}) == 4
    assert own[1][:200] != own[3][:200]


def test_a_document_that_gives_a_needle_away_is_named(corpus: Path) -> None:
    """Planning warns of the document; a strict experiment refuses it."""
    text = "They ate a sandwich in Dolores Park. It was a sunny day. " * 3 + "Nothing else happened there. " * 40
    (corpus / "z.txt").write_text(text, encoding="utf-8")
    overrides = {"corpora": [str(corpus)], "needles": "san-francisco", "lengths": [300]}
    warnings = plan_of(**overrides).check(("user",))
    assert len(warnings) == 1
    assert "'z.txt'" in warnings[0]
    with pytest.raises(CorpusError, match=r"z\.txt.*strict = true"):
        plan_of(**overrides, strict=True).check(("user",))


def test_the_default_needles_are_in_no_builtin_document() -> None:
    assert plan_of(lengths=[8000], depths=[0.5], reshuffles=20).check(("user",)) == []
