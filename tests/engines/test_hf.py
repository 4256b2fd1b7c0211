import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MambaConfig, MistralConfig

from niah.engines import EngineError, Generation, Sampling, Step
from niah.engines.hf import HfEngine, open_engine
from tests.engines.checkpoints import changed, generated, save, tiny

__all__ = ["tiny"]
END = 1
GREEDY = Sampling()


def ids(count: int, seed: int = 0) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(6, 1024) for _ in range(count)]


def ask(
    engine: HfEngine,
    prompt: Sequence[int],
    count: int = 12,
    *,
    stop_ids: Sequence[int] = (END,),
    sampling: Sampling = GREEDY,
    report: Callable[[Step], None] = lambda _: None,
) -> Generation:
    return engine.generate([prompt], count, stop_ids=stop_ids, sampling=sampling, report=report)


@pytest.fixture(scope="module")
def engine(tiny: Path) -> HfEngine:
    return HfEngine(tiny, device="cpu", chunk_tokens=64)


@pytest.mark.parametrize("seed", range(6))
def test_greedy_tokens_are_those_of_transformers_generate(tiny: Path, engine: HfEngine, seed: int):
    prompt = ids(40 + 60 * seed, seed)
    expected = generated(tiny, prompt, 24)
    made = ask(engine, prompt, 24)
    assert [*made.ids, *([END] if made.stop == "end" else [])] == expected
    assert made.prompt_tokens == len(prompt)
    assert (made.stop == "length") == (len(made.ids) == 24)


@pytest.fixture(scope="module")
def whole(tiny: Path) -> HfEngine:
    """Reads every prompt in one go."""
    return HfEngine(tiny, device="cpu", chunk_tokens=10_000)


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 200), chunk=st.integers(1, 250), cuts=st.lists(st.integers(0, 200), max_size=4))
def test_neither_chunks_nor_pieces_change_the_answer(engine: HfEngine, whole: HfEngine, count: int, chunk: int, cuts: list[int]):
    prompt, edges = ids(count), sorted(min(cut, count) for cut in cuts)
    pieces = [prompt[start:stop] for start, stop in zip([0, *edges], [*edges, count], strict=True)]
    for each in (engine, whole):
        each._forget()
    engine._chunk_tokens = chunk
    told: list[Step] = []
    expected = ask(whole, prompt, 6)
    made = engine.generate(pieces, 6, stop_ids=[END], sampling=GREEDY, report=told.append)
    assert (made.ids, made.stop) == (expected.ids, expected.stop)
    assert sum(step.phase == "prefill" for step in told) == -(-count // chunk)


def test_what_two_prompts_begin_with_alike_is_read_once(tiny: Path, engine: HfEngine):
    fresh = HfEngine(tiny, device="cpu")
    base, draw, computed = ids(600), random.Random(3), 0
    engine.close()
    ends = sorted((draw.randrange(100, 600) for _ in range(8)), reverse=True)
    for number, end in enumerate(ends):
        prompt = [*base[:end], 5, *ids(20, number)]
        told: list[Step] = []
        made = ask(engine, prompt, report=told.append)
        assert made.reused_tokens == (end if number else 0)
        read = [step for step in told if step.phase == "prefill"]
        assert read[-1].tokens == read[-1].total == len(prompt) - made.reused_tokens
        computed += read[-1].total
        fresh._forget()
        assert ask(fresh, prompt).ids == made.ids
    assert computed == ends[0] + 8 * 21


def test_the_same_prompt_again_reads_its_last_token_only(engine: HfEngine):
    prompt = ids(150, 9)
    first = ask(engine, prompt)
    again = ask(engine, prompt)
    assert (again.ids, again.reused_tokens) == (first.ids, 149)
    shorter = ask(engine, prompt[:80])
    assert shorter.reused_tokens == 79


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(
            vocab_size=1024, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            sliding_window=16, max_position_embeddings=512, eos_token_id=END, bos_token_id=0,
        ),
        MambaConfig(vocab_size=1024, hidden_size=32, state_size=4, num_hidden_layers=2, eos_token_id=END, bos_token_id=0, pad_token_id=2),
    ],
    ids=["sliding window", "state space"],
)  # fmt: skip
def test_caches_that_cannot_be_cut_back_read_every_prompt_as_a_whole(tmp_path: Path, config: Any):
    folder = save(tmp_path / "model", config)
    engine = HfEngine(folder, device="cpu", chunk_tokens=20)
    for prompt in (ids(70), ids(70)[:50] + ids(9, 1)):
        made = ask(engine, prompt, 10)
        assert made.reused_tokens == 0
        assert [*made.ids, *([END] if made.stop == "end" else [])] == generated(folder, prompt, 10)


def test_a_prompt_beyond_the_window_is_refused_before_weights_are_read(tiny: Path):
    engine = HfEngine(tiny, device="cpu")
    assert engine.window_tokens == 4096
    with pytest.raises(EngineError, match=r"4,096 of the model's own tokens; its window is 4,096") as caught:
        ask(engine, [7] * 4096)
    assert caught.value.kind == "window"
    assert engine._model is None


def test_the_window_ends_an_answer(tmp_path: Path, tiny: Path):
    engine = HfEngine(changed(tiny, tmp_path / "short", max_position_embeddings=50), device="cpu")
    made = ask(engine, ids(45), 100, stop_ids=())
    assert (len(made.ids), made.stop) == (5, "length")


def test_an_empty_prompt_is_an_error(engine: HfEngine):
    with pytest.raises(EngineError, match="empty") as caught:
        engine.generate([[], []], 3, stop_ids=[END], sampling=GREEDY, report=lambda _: None)
    assert caught.value.kind == "prompt"


def test_ids_that_the_weights_do_not_know_are_an_error(engine: HfEngine):
    with pytest.raises(EngineError, match="tokenizer does not fit: it made the id 1,024, the weights know 1,024") as caught:
        ask(engine, [5, 1024])
    assert caught.value.kind == "checkpoint"


def test_keys_and_values_that_will_not_fit_stop_after_the_first_chunk(tiny: Path):
    engine = HfEngine(tiny, device="cpu", chunk_tokens=32, memory_bytes=200_000)  # 512 bytes a token, and the larger layer twice
    told: list[Step] = []
    with pytest.raises(EngineError, match=r"keys and values of 1,012 tokens take 0\.5 MB; 0\.2 MB are free on cpu") as caught:
        ask(engine, ids(1000), report=told.append)
    assert (caught.value.kind, told) == ("memory", [])
    assert ask(engine, ids(100)).ids == ask(HfEngine(tiny, device="cpu"), ids(100)).ids


def test_memory_that_runs_out_is_told_as_that(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    engine = HfEngine(tiny, device="cpu")
    expected = ask(engine, ids(30)).ids
    monkeypatch.setattr(engine._model, "forward", lambda **_: torch.empty(1 << 58))
    with pytest.raises(EngineError, match="out of memory on cpu") as caught:
        ask(engine, ids(40))
    assert caught.value.kind == "memory"
    monkeypatch.undo()
    again = ask(engine, ids(30))
    assert (again.ids, again.reused_tokens) == (expected, 0)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_whoever_is_told_may_break_off(tiny: Path, phase: str):
    class EnoughError(BaseException):
        pass

    def report(step: Step) -> None:
        if step.phase == phase and step.tokens > 2:
            raise EnoughError

    engine = HfEngine(tiny, device="cpu", chunk_tokens=16)
    with pytest.raises(EnoughError):
        ask(engine, ids(90), stop_ids=(), report=report)
    assert ask(engine, ids(90)).ids == ask(HfEngine(tiny, device="cpu"), ids(90)).ids


def test_sampling_is_drawn_by_its_seed(engine: HfEngine):
    def drawn(**how: Any) -> tuple[int, ...]:
        return ask(engine, ids(50), 20, stop_ids=(), sampling=Sampling(**how)).ids

    assert drawn(temperature=1.0, seed=1) == drawn(temperature=1.0, seed=1)
    assert len({drawn(temperature=1.0, seed=seed) for seed in range(4)}) == 4
    assert drawn(temperature=1.0, top_p=1e-6, seed=1) == drawn()


def test_an_engine_that_was_closed_reads_its_weights_again(engine: HfEngine):
    before = ask(engine, ids(30)).ids
    engine.close()
    assert engine._model is None
    assert ask(engine, ids(30)).ids == before


def test_half_precision_that_a_cpu_would_emulate_becomes_single(tiny: Path, tmp_path: Path):
    for dtype in (torch.float16, torch.bfloat16):
        config = json.loads((tiny / "config.json").read_text()) | {"dtype": str(dtype).removeprefix("torch.")}
        folder = changed(tiny, tmp_path / str(dtype), files={"config.json": json.dumps(config)})
        engine = HfEngine(folder, device="cpu")
        ask(engine, ids(10), 2)
        native = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}[dtype]
        assert engine._model.dtype == (dtype if getattr(torch.ops.mkldnn, native)() else torch.float32)


def test_stop_ids_are_those_of_the_checkpoint(tiny: Path, tmp_path: Path):
    assert open_engine(tiny).stop_ids == {END}
    several = changed(tiny, tmp_path / "a", files={"generation_config.json": json.dumps({"eos_token_id": [1, 7]})})
    assert open_engine(several).stop_ids == {1, 7}
    assert open_engine(changed(tiny, tmp_path / "b", without=["generation_config.json"], eos_token_id=9)).stop_ids == {9}


HALF = "half of the weights"
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no config": ({"without": ["config.json"]}, "there is no config.json in it"),
    "a config that is no JSON": ({"files": {"config.json": '{"a":'}}, "config.json cannot be used.*not a valid JSON"),
    "a config of nothing": ({"files": {"config.json": "[]"}}, "config.json cannot be used"),
    "an unknown architecture": ({"model_type": "zorg"}, "config.json cannot be used.*zorg"),
    "code of its own": ({"model_type": "zorg", "auto_map": {"AutoConfig": "x.Y"}}, "code of its own, which niah does not run"),
    "an encoder": ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "it is a BertForMaskedLM, no causal"),
    "encoder and decoder": ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "it is a T5For.*, no causal"),
    "images": ({"model_type": "vit", "architectures": ["ViTForImageClassification"]}, "it is a ViT.*, no causal"),
    "another architecture's weights": ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "weights lack .* such as transformer"),
    "too few layers": ({"num_hidden_layers": 3}, r"weights lack 9 tensors, such as model\.layers\.2"),
    "other shapes": ({"intermediate_size": 64}, "other shapes than its config.json says"),
    "garbage": ({"files": {"model.safetensors": b"garbage" * 99}}, "weights cannot be read: .*header"),
    "half of the weights": ({"files": {"model.safetensors": HALF}}, "weights cannot be read: .*incomplete"),
    "no weights": ({"without": ["model.safetensors"]}, "weights cannot be read: .*no file named model.safetensors"),
    "a broken generation config": ({"files": {"generation_config.json": "{"}}, "generation_config.json cannot be used"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_checkpoints_say_what_is_wrong(tiny: Path, tmp_path: Path, name: str):
    change, said = BAD[name]
    folder = changed(tiny, tmp_path / "bad", **change)
    if name == HALF:
        content = (tiny / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(EngineError, match=said) as caught:
        ask(open_engine(folder), ids(8))
    assert caught.value.kind == "checkpoint"
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_answers_are_those_of_the_cpu(tiny: Path):
    gpu, cpu = HfEngine(tiny, chunk_tokens=64), HfEngine(tiny, device="cpu")
    assert gpu.device == "cuda"
    for seed in range(4):
        prompt = ids(300)[: 300 - 40 * seed] + ids(30, seed)
        made = ask(gpu, prompt)
        assert (made.ids, made.reused_tokens > 0) == (ask(cpu, prompt).ids, seed > 0)
    with pytest.raises(EngineError, match="free on cuda"):
        ask(HfEngine(tiny, chunk_tokens=64, memory_bytes=100_000), ids(1000))
    gpu.close()
