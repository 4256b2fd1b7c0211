from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from niah.engines import EngineError
from niah.engines.chat import Chat
from tests.engines.checkpoints import changed, tiny
from tests.peers.tiny_checkpoint import BOS, END, TURNS

__all__ = ["tiny"]
SPECIAL = [BOS, END, *TURNS]
CUE = "Here is it:"


@pytest.fixture(scope="module")
def chat(tiny: Path) -> Chat:
    return Chat(tiny)


@pytest.fixture(scope="module")
def theirs(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


def messages(user: str, *, system: str = "Be brief.", begun: str = "") -> list[dict[str, str]]:
    made = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return [*made, {"role": "assistant", "content": begun}] if begun else made


def flat(chat: Chat, asked: list[dict[str, str]]) -> list[int]:
    return [id_ for piece in chat.ids(asked) for id_ in piece]


@settings(max_examples=60, deadline=None)
@given(user=st.text(min_size=1), system=st.text(min_size=1), begun=st.sampled_from(["", CUE]))
def test_ids_are_those_of_the_chat_template(chat: Chat, theirs: Any, user: str, system: str, begun: str):
    how = {"continue_final_message": True} if begun else {"add_generation_prompt": True}
    asked = messages(user, system=system, begun=begun)
    assert flat(chat, asked) == theirs.apply_chat_template(asked, tokenize=True, return_dict=False, **how)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.sampled_from([*SPECIAL, "<|", "|>", "the river ", "\ue000"]), st.text(max_size=5)), max_size=12).map("".join))
def test_special_tokens_within_a_message_are_text(chat: Chat, theirs: Any, text: str):
    known = {theirs.convert_tokens_to_ids(token) for token in SPECIAL}
    without = [id_ for id_ in flat(chat, messages("x")) if id_ in known]
    made = flat(chat, messages(f"a{text}b"))
    assert [id_ for id_ in made if id_ in known] == without
    rendered = theirs.apply_chat_template(messages(f"a{text}b"), tokenize=False, add_generation_prompt=True)
    assert theirs.decode(made, clean_up_tokenization_spaces=False) == rendered


def test_a_long_text_comes_in_pieces_that_change_no_token(chat: Chat, theirs: Any):
    asked = messages("The river mill keeper carried 3,846 barrels, over  old bridges.\n" * 5000)
    pieces = list(chat.ids(asked))
    assert len(pieces) > 4
    assert [id_ for piece in pieces for id_ in piece] == theirs.apply_chat_template(
        asked, tokenize=True, return_dict=False, add_generation_prompt=True
    )


def test_a_begun_answer_is_gone_on_with(chat: Chat, theirs: Any):
    text = theirs.decode(flat(chat, messages("Where?", begun=CUE)))
    assert text.endswith(f"<|assistant|>{CUE}")


def test_generated_text_is_without_special_tokens(chat: Chat, theirs: Any):
    ids = theirs.encode("the river", add_special_tokens=False)
    assert chat.text([*ids, theirs.convert_tokens_to_ids(END)]) == "the river"


REFUSES = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}<|{{ m['role'] }}|>{{ m['content'] }}<|pad|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"


def test_a_template_without_system_messages_gets_ours_in_the_users(tiny: Path, tmp_path: Path, theirs: Any):
    chat = Chat(changed(tiny, tmp_path / "gemma", files={"chat_template.jinja": REFUSES}))
    assert theirs.decode(flat(chat, messages("Where?"))) == "<|user|>Be brief.\n\nWhere?<|pad|><|assistant|>"
    assert chat.notes == ["its chat template knows no system message: ours stands at the beginning of the user's"]


def test_what_the_template_puts_behind_a_turn_ends_an_answer(tiny: Path, tmp_path: Path, chat: Chat, theirs: Any):
    other = Chat(changed(tiny, tmp_path / "pad", files={"chat_template.jinja": REFUSES}))
    end, pad = theirs.convert_tokens_to_ids([END, "<|pad|>"])
    assert (chat.stop_ids, other.stop_ids) == ({end}, {end, pad})


def test_without_a_template_the_parts_are_joined(tiny: Path, tmp_path: Path, theirs: Any):
    bare = Chat(changed(tiny, tmp_path / "bare", without=["chat_template.jinja"]))
    assert bare.raw
    assert "no chat template" in bare.notes[0]
    asked = messages(f"Where {END}?", begun=CUE)
    assert theirs.decode(flat(bare, asked)) == f"Be brief.\n\nWhere {END}?\n\n{CUE}"
    assert not set(flat(bare, asked)) & set(theirs.all_special_ids)
    wanted = Chat(tiny, raw=True)
    assert (flat(wanted, asked), wanted.notes) == (flat(bare, asked), [])


def test_a_base_models_text_begins_as_its_tokenizer_says(tiny: Path, tmp_path: Path, theirs: Any):
    import json

    settings_ = json.loads((tiny / "tokenizer.json").read_text())
    settings_["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": END, "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [theirs.convert_tokens_to_ids(token)], "tokens": [token]} for token in (BOS, END)},
    }  # fmt: skip
    files = {"tokenizer.json": json.dumps(settings_)}
    made = flat(Chat(changed(tiny, tmp_path / "base", without=["chat_template.jinja"], files=files)), messages("Where?"))
    assert theirs.decode(made) == f"{BOS}Be brief.\n\nWhere?"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"without": ["tokenizer.json", "tokenizer_config.json"]}, "tokenizer cannot be read: there is no tokenizer.json"),
        ({"files": {"tokenizer.json": "{"}}, "tokenizer cannot be read: .*line 1"),
        ({"files": {"chat_template.jinja": "{% for %}"}}, "chat template cannot be used: .*end of statement"),
    ],
)
def test_bad_tokenizers_say_what_is_wrong(tiny: Path, tmp_path: Path, change: dict[str, Any], said: str):
    with pytest.raises(EngineError, match=said) as caught:
        Chat(changed(tiny, tmp_path / "bad", **change))
    assert caught.value.kind == "checkpoint"


def test_a_template_that_takes_no_begun_answer_says_what_to_try(tiny: Path, tmp_path: Path):
    template = "{% for m in messages %}{{ raise_exception('users only') if m['role'] == 'assistant' }}{{ m['content'] }}{% endfor %}"
    chat = Chat(changed(tiny, tmp_path / "users", files={"chat_template.jinja": template}))
    assert flat(chat, messages("Where?"))
    with pytest.raises(EngineError, match=r"\(users only\): try --cue user") as caught:
        flat(chat, messages("Where?", begun=CUE))
    assert caught.value.kind == "prompt"
