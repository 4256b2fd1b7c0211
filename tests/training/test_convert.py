"""Checkpoints of the Llama family into Infini-attention. `pytest tests/training/test_convert.py`"""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from niah.engines import Sampling
from niah.engines.chat import Chat
from niah.engines.checkpoint import quiet
from niah.engines.infini.checkpoint import load_checkpoint
from niah.engines.infini.config import InfiniConfig
from niah.engines.infini.engine import InfiniEngine
from niah.errors import UsageError
from niah.task.prompt import CUE
from niah.training.convert import Conversion, ConvertedReader, converted, is_convertible
from niah.training.episodes import Episode, Maker, Shape, Talk, Turn
from niah.training.frames import FrameNeedles
from niah.training.noise import Piece
from niah.training.recipe import Recipe
from niah.training.session import Wish, train
from niah.training.template import Template
from tests.engines.checkpoints import changed, save, tiny
from tests.training.material import noise

quiet()
__all__ = ["tiny"]
SIZES: dict[str, Any] = {
    "vocab_size": 1024, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512, "initializer_range": 0.03, "pad_token_id": 2, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "llama, all heads their own, biases": lambda: transformers.LlamaConfig(**{**SIZES, "num_key_value_heads": 4}, attention_bias=True),
    "llama, tied, wide heads": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=True, head_dim=24),
    "llama 3's rotations": lambda: transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "linear rotations": lambda: transformers.LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    ),
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=None),
    "mistral, a wide window": lambda: transformers.MistralConfig(**SIZES, sliding_window=200),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=16),
}


def checkpoint(tiny: Path, folder: Path, config: Any) -> Path:
    """Random weights of this architecture with the tiny checkpoint's tokenizer; biases and norms are not left at 0 and 1."""
    save(folder, config)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        if (tiny / name).exists():
            (folder / name).write_bytes((tiny / name).read_bytes())
    return folder


@pytest.mark.parametrize("rule", ["linear", "delta"])
@pytest.mark.parametrize("name", CONFIGS)
def test_within_a_segment_it_is_the_checkpoint(name: str, rule: Any, tiny: Path, tmp_path: Path) -> None:
    folder = checkpoint(tiny, tmp_path / "x", CONFIGS[name]())
    model, _ = converted(str(folder), Conversion(segment_tokens=64, rule=rule))
    original = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.randint(3, 1000, (2, 64))
    with torch.no_grad():
        hidden, _ = model(ids)
        expected = original(ids).logits
    assert expected.std() > 0.05  # babble that hangs on the prompt, not nothing
    torch.testing.assert_close(model.logits(hidden), expected, rtol=1e-4, atol=1e-4)


def test_with_closed_gates_every_segment_is_the_checkpoint_by_itself(tiny: Path) -> None:
    model, _ = converted(str(tiny), Conversion(segment_tokens=32, gate=-40.0))
    original = transformers.AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    ids = torch.randint(6, 1000, (1, 96))
    with torch.no_grad():
        hidden, _ = model(ids)
        for start in (0, 32, 64):
            expected = original(ids[:, start : start + 32]).logits
            torch.testing.assert_close(model.logits(hidden[:, start : start + 32]), expected, rtol=1e-4, atol=1e-4)
    opened, _ = converted(str(tiny), Conversion(segment_tokens=32, gate=0.0))
    with torch.no_grad():
        other, _ = opened(ids)
    assert not torch.allclose(other[:, 32:], hidden[:, 32:], atol=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "is a gpt2: niah converts llama, mistral, qwen2, qwen3"),
        ({"hidden_act": "gelu"}, "activation gelu"),
        ({"mlp_bias": True}, "biases in its MLP"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "scales its rotations by 'yarn'"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}, "max_position_embeddings": 64}, "'dynamic'"),
        ({"intermediate_size": 100}, "weights of .* cannot be read"),
    ],
)
def test_what_cannot_be_kept_is_refused(change: dict[str, Any], message: str, tiny: Path, tmp_path: Path) -> None:
    folder = changed(tiny, tmp_path / "x", **change)
    with pytest.raises(UsageError, match=message):
        converted(str(folder), Conversion(segment_tokens=128))


def test_a_window_shorter_than_a_segment_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = checkpoint(tiny, tmp_path / "x", transformers.MistralConfig(**SIZES, sliding_window=100))
    with pytest.raises(UsageError, match="attends to 100 tokens only"):
        converted(str(folder), Conversion(segment_tokens=128))
    assert converted(str(folder), Conversion(segment_tokens=64))


@pytest.mark.parametrize(
    ("without", "message"), [("config.json", "config.json"), ("model.safetensors", "weights"), ("tokenizer.json", "tokenizer")]
)
def test_missing_files_are_named(without: str, message: str, tiny: Path, tmp_path: Path) -> None:
    folder = changed(tiny, tmp_path / "x", without=[without])
    with pytest.raises(UsageError, match=message):
        converted(str(folder), Conversion())


def test_what_is_convertible(tiny: Path, tmp_path: Path) -> None:
    assert is_convertible(str(tiny))
    assert not is_convertible(str(changed(tiny, tmp_path / "x", model_type="gpt2")))
    with pytest.raises(UsageError, match="it is no folder here"):
        is_convertible("niah-tests/no-such-model-anywhere")


TEMPLATES = {
    "its own": None,
    "lines": (
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] | trim }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "no system message": (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
    "thoughts": (
        "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' and loop.last %}<think></think>{% endif %}"
        "{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
    "none": "",
}


@pytest.fixture(params=TEMPLATES)
def templated(request: pytest.FixtureRequest, tiny: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint with another chat template."""
    given = TEMPLATES[request.param]
    if given is None:
        return tiny
    folder = changed(tiny, tmp_path / "templated")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = given or None
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    return folder


TALK = Talk(
    system="Be exact.", opening="", turns=[Turn("\n\nWho hid it?", CUE, "Ann hid it."), Turn("Where?\n\n" + CUE, "", "Under a stone.")]
)
PIECES = [Piece("It rained. "), Piece(" Ann hid it.", 0), Piece("\n\nNobody saw. "), Piece(" Under a stone.", 1), Piece(" It was over.")]


def decoded(folder: Path) -> Callable[[Any], str]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return lambda ids: tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def test_an_episode_begins_with_the_tokens_that_an_engine_reads(templated: Path) -> None:
    """The very ids of the prompt that the backend would make of the same messages, up to the answer."""
    chat = Chat(templated)
    made = Template(templated).episode(TALK, PIECES, 10_000)
    context = "".join(piece.text for piece in PIECES)
    messages = [{"role": "system", "content": "Be exact."}, {"role": "user", "content": f"{context}\n\nWho hid it?"}]
    _, start, _ = made.turns[0]
    plain = replace(TALK, turns=[replace(TALK.turns[0], begun="")])
    first = Template(templated).episode(plain, PIECES, 10_000)
    prompt = [token for part in chat.ids(messages) for token in part]
    assert first.ids[: first.turns[0][1]].tolist() == prompt
    begun = [token for part in chat.ids([*messages, {"role": "assistant", "content": CUE}]) for token in part]
    assert made.ids[:start].tolist() == begun


def test_an_episodes_parts_are_where_it_says(templated: Path) -> None:
    text, made = decoded(templated), Template(templated).episode(TALK, PIECES, 10_000)
    end = "<|end|>"
    answers = [text(made.ids[start:stop]) for _, start, stop in made.turns]
    assert [answer.strip() for answer in answers] == [f"Ann hid it.{end}", f"Under a stone.{end}"]
    assert len(made.ids) == made.turns[-1][2]
    assert "Who hid it?" in text(made.ids[made.turns[0][0] : made.turns[0][1]])
    assert "Where?" in text(made.ids[made.turns[1][0] : made.turns[1][1]])
    first, last = made.context
    assert text(made.ids[first:last]).strip() == "".join(piece.text for piece in PIECES).strip()
    for number, needle in ((0, "Ann hid it."), (1, "Under a stone.")):
        assert text(made.ids[made.needle == number]).strip() == needle
    weighed = made.weights > 0
    assert weighed.sum() == sum(stop - start for _, start, stop in made.turns)
    assert all(weighed[start:stop].all() for _, start, stop in made.turns)


def test_the_answer_ends_with_a_token_that_ends_answers(templated: Path) -> None:
    made, stops = Template(templated).episode(TALK, PIECES, 10_000), Chat(templated).stop_ids
    assert all(made.ids[stop - 1] in stops for _, _, stop in made.turns)


@pytest.mark.parametrize("tokens", [300, 700])
def test_episodes_are_never_longer_than_asked(tokens: int, templated: Path) -> None:
    maker, text = Maker(FrameNeedles(), noise(), Template(templated)), decoded(templated)
    for seed in range(12):
        made = maker.episode(random.Random(seed), Shape(tokens=tokens, needles=(1, 3), question_first=0.3, passkeys=0.3))
        assert len(made.ids) == len(made.weights) == len(made.needle) <= tokens
        context = text(made.ids[made.context[0] : made.context[1]])
        assert made.turns
        for _, start, stop in made.turns:
            assert text(made.ids[start:stop]).replace("<|end|>", "").strip() in context


def test_fillers_are_left_out_until_an_episode_fits(tiny: Path) -> None:
    script = Template(tiny)
    whole = script.episode(TALK, PIECES, 10_000)
    shorter = script.episode(TALK, PIECES, len(whole.ids) - 1)
    assert len(shorter.ids) < len(whole.ids)
    assert len(shorter.turns) == 2
    cut = script.episode(TALK, [piece for piece in PIECES if piece.needle is not None], whole.turns[0][2] - 8)
    assert len(cut.turns) <= 1


def test_a_tokenizer_without_an_end_is_refused(tiny: Path, tmp_path: Path) -> None:
    settings = json.loads((tiny / "tokenizer_config.json").read_text())
    endless = {"tokenizer_config.json": json.dumps({k: v for k, v in settings.items() if k != "eos_token"})}
    with pytest.raises(UsageError, match="eos_token"):
        Template(changed(tiny, tmp_path / "endless", files=endless))


def small() -> Recipe:
    stage = {"tokens": 10**6, "lengths": [256], "needles_per_1k": [4, 8], "real_sentences": 0, "random_sentences": 0, "virtual_times": 2}
    return Recipe.model_validate(
        {
            "reader": "convert", "corpora": ["builtin/wikipedia"], "batch_tokens": 1024, "total_tokens": 1024 * 24, "warmup_steps": 2,
            "muon_learning_rate": 0, "adam_learning_rate": 0.003, "model": {"segment_tokens": 64}, "stages": [stage],
        }
    )  # fmt: skip


def test_it_trains_and_what_it_saves_runs(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """24 steps: the loss falls; the folder is a checkpoint that the engine streams, by the model's own tokenizer and template."""
    monkeypatch.setattr("niah.training.train.HELD_OUT_EPISODES", 2)
    (tmp_path / "small.json").write_text(small().model_dump_json())
    rows: list[dict[str, Any]] = []
    wish = Wish(reader="infini", folder=tmp_path / "run", recipe=str(tmp_path / "small.json"), init=str(tiny), device="cpu", threads=1)
    done = train(wish, lambda _: None, lambda row, _: rows.append(row))
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0] - 0.5
    assert done.checkpoint is not None
    model = load_checkpoint(done.checkpoint)
    assert (model.config.segment_tokens, model.config.border_at_question) == (64, False)
    started, _ = converted(str(tiny), Conversion(segment_tokens=64))
    assert not torch.equal(model.layers[0].attention.beta.float(), started.layers[0].attention.beta)

    chat, engine = Chat(done.checkpoint), InfiniEngine(done.checkpoint, device="cpu")
    messages = [{"role": "user", "content": "The river keeps a small house. " * 60 + "Who keeps it?"}]
    ids = [token for part in chat.ids(messages) for token in part]
    answer = engine.generate([ids], 6, stop_ids=chat.stop_ids | engine.stop_ids, sampling=Sampling(), report=lambda _: None)
    with torch.no_grad():
        hidden, _ = model(torch.tensor([ids]))
        first = int(model.logits(hidden[:, -1]).argmax())
    assert answer.prompt_tokens == len(ids) > 4 * 64
    assert (answer.ids or tuple(chat.stop_ids))[0] in {first, *chat.stop_ids}


def test_conversations_are_read_as_one_stream(tiny: Path) -> None:
    model, script = converted(str(tiny), Conversion(segment_tokens=64))
    reader = ConvertedReader(model, script.pad)
    rng = random.Random(0)
    episodes: list[Episode] = [Maker(FrameNeedles(), noise(), script).episode(rng, Shape(tokens=256, needles=(1, 2))) for _ in range(3)]
    batch = reader.collate(episodes, 256, rng)
    assert batch.ids.max() < 1024
    with torch.no_grad():
        together = reader.logits(batch, virtual_times=1.0)
        at = 0
        for row, episode in enumerate(episodes):
            hidden, _ = model(torch.from_numpy(episode.ids)[None])
            for _, start, end in episode.turns:
                alone = model.logits(hidden[0, start - 1 : end - 1])
                torch.testing.assert_close(together[at : at + end - start], alone, rtol=1e-3, atol=1e-3)
                at += end - start
            assert row < 3
        assert not torch.allclose(reader.logits(batch, virtual_times=50.0), together, atol=1e-3)
    assert reader.extra_losses(batch) == {}
    assert len(reader.gates()) == 2


@pytest.mark.parametrize(
    ("field", "value", "message"), [("kv_heads", 3, "cannot share 3"), ("rope_frequencies", (1.0,), "1 values for a head_dim")]
)
def test_layers_that_cannot_be(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InfiniConfig(d_model=8, heads=4, head_dim=4, segment_tokens=8, **{field: value})
