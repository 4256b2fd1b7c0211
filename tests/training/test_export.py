"""Exported readers are what was trained: the same logits, the same tokens, the same prompt as in an episode."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoTokenizer, LlamaForCausalLM

from niah.backends import Connection, open_backend
from niah.engines import BORDER
from niah.engines.chat import Chat
from niah.engines.infini.checkpoint import load_checkpoint
from niah.engines.infini.config import InfiniConfig
from niah.engines.infini.model import InfiniModel, ModelConfig
from niah.task.corpus import open_corpus
from niah.task.prompt import CUE
from niah.task.tokens import NIAH_8K_SPECIAL, niah_8k_encoding
from niah.training.batches import collate_turns
from niah.training.episodes import END, Episode, Maker, Shape
from niah.training.export import export_full, export_infini, hugging_face_tokenizer
from niah.training.frames import FrameNeedles
from niah.training.llama import Llama, LlamaShape
from niah.training.noise import Noise

SHAPE = LlamaShape(hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=112)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Llama]:
    torch.manual_seed(3)
    model = Llama(SHAPE)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too, or they would not be tested
            parameter.add_(torch.randn_like(parameter) * 0.1)
    folder = tmp_path_factory.mktemp("readers") / "full"
    export_full(model.state_dict(), SHAPE, folder, dtype=torch.float32)
    return folder, model


@pytest.fixture(scope="module")
def chat(full: tuple[Path, Llama]) -> Chat:
    return Chat(full[0])


def test_transformers_runs_the_full_reader(full: tuple[Path, Llama]):
    folder, ours = full
    theirs, told = LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told
    assert theirs.config.rope_parameters["rope_theta"] == 1e20
    ids = torch.randint(0, 8192, (2, 300), generator=torch.Generator().manual_seed(0))
    for first in (0, 100_000):
        at = torch.arange(first, first + 300)[None].expand(2, -1)
        with torch.inference_mode():
            expected = theirs(input_ids=ids, position_ids=at).logits
            made = ours.logits(ours(ids, at))
        assert (made - expected).abs().max() < (1e-4 if first == 0 else 2e-2)
    assert made.std() > 0.5
    assert theirs.generation_config.eos_token_id == END


def test_the_shipped_precision_and_nothing_twice(full: tuple[Path, Llama], tmp_path: Path):
    export_full(full[1].state_dict(), SHAPE, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
        assert not any("lm_head" in name for name in file.keys())  # noqa: SIM118
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert LlamaForCausalLM.from_pretrained(tmp_path).dtype == torch.bfloat16


# --- the tokenizer

ENCODING, TOKENIZER = niah_8k_encoding(), hugging_face_tokenizer()


def same(text: str) -> None:
    expected = ENCODING.encode_ordinary(text)
    assert TOKENIZER.encode(text, add_special_tokens=False).ids == expected
    assert TOKENIZER.decode(expected, skip_special_tokens=False) == text


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_has_the_tokens_of_niah_8k(text: str):
    if not any(special in text for special in NIAH_8K_SPECIAL):
        same(text)


PIECES = [
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "\u00a0",
    "\u3000",
    "\u2028",
    "\x85",
    ".",
    "...",
    "Don't",
    "naïve",
    "e\u0301",
    "ﬁ",
    "中文",
    "тест",
    "١٢",
    "½",
    "3.14",
    "𝒳",
    "👩‍🔬",
    "\ufeff",
    "\u200b",
    "\x00",
    "The house",
    "ſ",
    "ʰ",
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_odd_unicode_has_the_tokens_of_niah_8k(text: str):
    same(text)


@pytest.mark.parametrize("corpus", ["builtin/wikipedia", "builtin/legal", "builtin/financial", "builtin/medical"])
def test_a_corpus_has_the_tokens_of_niah_8k(corpus: str):
    opened = open_corpus(corpus)
    for number in range(30):
        same(opened.document(number).text)


def test_special_tokens_have_their_ids(full: tuple[Path, Llama]):
    theirs = AutoTokenizer.from_pretrained(full[0])
    assert [theirs.convert_tokens_to_ids(token) for token in NIAH_8K_SPECIAL] == list(range(8184, 8192))
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (8184, 8190, 8186)
    assert len(theirs) == 8192


@pytest.mark.parametrize("system", ["Be brief.", ""])
def test_the_chat_template_is_that_of_the_episodes(full: tuple[Path, Llama], system: str):
    theirs = AutoTokenizer.from_pretrained(full[0])
    messages = [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": "T?"}]
    head = f"<|bos|>{f'<|system|>{system}<|end|>' if system else ''}<|user|>T?<|end|><|assistant|>"
    assert theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == head
    begun = [*messages, {"role": "assistant", "content": CUE}]
    assert theirs.apply_chat_template(begun, tokenize=False, continue_final_message=True) == head + CUE
    assert theirs.apply_chat_template(begun, tokenize=False) == f"{head}{CUE}<|end|>"


def test_the_answer_ends_where_training_ends_it(chat: Chat):
    assert chat.stop_ids == {END}
    assert chat.notes == []
    assert chat.text([*ENCODING.encode_ordinary(" The river."), END]) == " The river."


# --- episodes and prompts


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    noise = Noise([open_corpus("builtin/wikipedia")])
    rng, maker = random.Random(4), Maker(FrameNeedles(), noise)
    return [maker.episode(rng, Shape(tokens=tokens, needles=(1, 2))) for tokens in (150, 220, 90, 300)]


def test_an_episode_and_a_prompt_of_the_same_text_have_the_same_tokens(chat: Chat, episodes: Sequence[Episode]):
    """But for the context itself, which the episodes encode sentence by sentence."""
    decode = ENCODING.decode
    for episode in episodes:
        first, last = episode.context
        asked, answer, _ = episode.turns[0]
        head, context, tail = (decode(episode.ids[a:b].tolist()) for a, b in ((0, first), (first, last), (asked, answer)))
        system = head.removesuffix("<|user|>").removeprefix("<|bos|>").removeprefix("<|system|>").removesuffix("<|end|>")
        question, _, begun = tail.partition("<|end|><|assistant|>")
        messages = [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": context + question}]
        messages += [{"role": "assistant", "content": begun}] * bool(begun)
        pieces = list(chat.ids(messages, border=len(context)))
        assert sum(piece is BORDER for piece in pieces) == 1
        expected = [*episode.ids[:first].tolist(), *ENCODING.encode_ordinary(context), *episode.ids[asked:answer].tolist()]
        assert [id_ for piece in pieces for id_ in piece] == expected


def tiny_infini(**options: Any) -> ModelConfig:
    layer = InfiniConfig(d_model=32, heads=2, head_dim=16, segment_tokens=32, conv_width=4, write_gate=True, attention_bias=True, **options)
    return ModelConfig(vocabulary=8192, d_model=32, mlp=32, layers=(layer, layer), end_tokens=(END,))


def test_the_engine_answers_as_training_would(tmp_path: Path, episodes: Sequence[Episode]):
    """The likeliest first token behind each question is the same by training's way and by the engine's."""
    torch.manual_seed(1)
    model = InfiniModel(tiny_infini(feature_map="softmax", feature_count=64, feature_scale=8.0, beta=(5.0, -1.0)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5).add_(torch.randn_like(parameter) * 0.05)
    export_infini(model.state_dict(), model.config, tmp_path / "infini", dtype=torch.float32)
    assert load_checkpoint(tmp_path / "infini").config == replace(model.config, border_at_question=True)
    from niah.engines import Sampling
    from niah.engines.infini.engine import open_engine

    engine = open_engine(tmp_path / "infini")
    answers: list[int] = []
    for episode in episodes:
        batch = collate_turns([episode])
        with torch.inference_mode():
            _, states = model(batch.texts[0])
            hidden, _ = model(batch.turns[:1], model.close_segment(states))
            expected = model.logits(hidden.flatten(0, 1)[batch.at])[0]
        asked, answer, _ = episode.turns[0]
        prompt = [episode.ids[:asked].tolist(), BORDER, episode.ids[asked:answer].tolist()]
        made = engine.generate(prompt, 1, stop_ids=(), sampling=Sampling(), report=lambda _: None)
        assert made.ids[0] == int(expected.argmax())
        without = engine.generate([prompt[0], prompt[2]], 1, stop_ids=(), sampling=Sampling(), report=lambda _: None)
        answers += [made.ids[0], without.ids[0]]
    assert len(set(answers)) > 2, "a model that always says the same shows nothing"


def test_weights_of_an_older_training_keep_their_projection(tmp_path: Path):
    """Where frozen projections were parameters: another one than the seed's is kept and stored, the seed's own is not."""
    config = tiny_infini(feature_map="softmax", feature_count=64)
    model = InfiniModel(config)
    names = [name for name, _ in model.named_buffers() if name.endswith("features.projection")]
    assert len(names) == 2 and not any(name in model.state_dict() for name in names)
    old = model.state_dict() | {names[0]: model.get_buffer(names[0]).clone(), names[1]: torch.randn(2, 16, 64).half().float()}
    export_infini(old, config, tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert torch.equal(loaded.get_buffer(names[0]), model.get_buffer(names[0]))
    assert torch.equal(loaded.get_buffer(names[1]), old[names[1]])
    assert [name for name in names if name in loaded.state_dict()] == [names[1]]


def test_the_exported_reader_is_a_model_of_niah(tmp_path: Path):
    export_infini(InfiniModel(tiny_infini()).state_dict(), tiny_infini(), tmp_path)
    backend: Any = open_backend(f"infini/{tmp_path}", Connection())
    backend.ready()
    assert backend.window_tokens is None
    assert backend.notes == ()
