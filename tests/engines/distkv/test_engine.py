"""The engine answers as transformers does: whatever fits nowhere but in sum, begins alike, or is of another architecture."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BloomConfig, Gemma2Config, GPT2Config, MambaConfig, MistralConfig

from niah.engines import EngineError, Step
from niah.engines.distkv.engine import DistKVEngine, open_engine
from niah.engines.memory import size
from tests.engines.checkpoints import changed, generated, save, tiny
from tests.engines.distkv.asking import BLOCK, GREEDY, TOKEN_BYTES, ask, fleet, ids, kept, made
from tests.engines.distkv.texts import assert_whole

__all__ = ["tiny"]
END = 1


@pytest.fixture(scope="module")
def four(tiny: Path) -> DistKVEngine:
    """Four instances, of which none holds a prompt of these tests."""
    return made(tiny, instances=4, tokens=160)


@pytest.mark.parametrize("seed", range(5))
def test_greedy_tokens_are_those_of_transformers_generate(tiny: Path, four: DistKVEngine, seed: int):
    prompt = ids(30 + 140 * seed, seed)
    expected = generated(tiny, prompt, 24)
    for engine in (four, made(tiny)):
        answer = ask(engine, prompt, 24, stop_ids=[END])
        assert [*answer.ids, *([END] if answer.stop == "end" else [])] == expected
        assert answer.prompt_tokens == len(prompt)
        blocks = -(-(len(prompt) + len(answer.ids)) // BLOCK)
        local, remote = answer.measured["local_blocks"], answer.measured["remote_blocks"]
        assert local + remote in (blocks, blocks - 1)
        assert (remote > 0) == (answer.measured["moved_bytes"] > 0) == (engine is four and blocks > 10)
    assert_whole(fleet(four))


def test_a_text_that_fits_nowhere_says_so_and_the_next_one_goes_on(tiny: Path):
    engine = made(tiny, instances=2, tokens=160)
    told: list[Step] = []
    with pytest.raises(EngineError) as caught:
        ask(engine, ids(330), report=told.append)
    free = size(320 * TOKEN_BYTES)
    assert str(caught.value) == (
        f"the keys and values of 330 tokens take {size(336 * TOKEN_BYTES)}; {free} are free on 2 instances of {size(160 * TOKEN_BYTES)}"
    )
    assert (caught.value.kind, told) == ("memory", [])
    assert ask(engine, ids(300)).ids == ask(made(tiny), ids(300)).ids
    with pytest.raises(EngineError, match="the keys and values of 321 tokens take"):
        ask(engine, ids(318), 20)  # an answer may also be too long
    assert ask(engine, ids(300)).reused_tokens == 0  # what was kept had to go for it
    assert ask(engine, ids(300)).reused_tokens == 288
    assert kept(engine) == 0


def test_n_instances_hold_n_times_the_text_of_one(tiny: Path):
    for instances in (1, 3, 5):
        engine = made(tiny, instances=instances, tokens=100)  # 6 blocks of 16
        longest = instances * 96
        assert len(ask(engine, ids(longest), 1).ids) == 1
        with pytest.raises(EngineError, match="free on"):
            ask(engine, ids(longest + 1), 1)


def test_of_a_sweep_common_beginnings_are_read_once(tiny: Path):
    engine, plain = made(tiny, instances=2, tokens=480), made(tiny)
    base, total, read = ids(800), 0, 0
    cells = [(int(depth * (length - 30)), length) for length in range(160, 801, 160) for depth in (0.0, 0.25, 0.5, 0.75, 1.0)]
    for where, length in sorted(cells, reverse=True):  # as sweeps ask: the deepest needle first
        prompt = [*base[:where], *ids(20, length + where), *base[where : length - 20]]
        told: list[Step] = []
        answer = ask(engine, prompt, 6, report=told.append)
        steps = [step for step in told if step.phase == "prefill"]
        assert steps[-1].tokens == steps[-1].total == len(prompt) - answer.reused_tokens
        assert answer.reused_tokens % BLOCK == 0
        total, read = total + len(prompt), read + steps[-1].total
        assert ask(plain, prompt, 6).ids == answer.ids
        assert kept(plain) == 0
        assert_whole(fleet(engine))
    assert 0.5 < read / total <= 0.6
    assert kept(engine) == 0


def test_more_than_the_last_text_is_kept_and_the_least_used_goes_first(tiny: Path):
    engine = made(tiny, instances=2, tokens=320)  # 40 blocks; a text of 150 and its answer take 10
    texts = [ids(150, seed) for seed in range(4)]
    for text in texts:
        assert ask(engine, text, 4).reused_tokens == 0
    assert [ask(engine, text, 4).reused_tokens for text in texts[1:]] == [144, 144, 144]
    assert ask(engine, ids(150, 9), 4).reused_tokens == 0
    assert ask(engine, texts[3], 4).reused_tokens == 144
    assert ask(engine, texts[0], 4).reused_tokens == 0
    assert kept(engine) == 0


def test_of_a_text_of_whole_blocks_the_last_one_is_read_again(tiny: Path):
    engine = made(tiny)
    first = ask(engine, ids(160), 4)
    again = ask(engine, ids(160), 4)
    assert (again.ids, again.reused_tokens) == (first.ids, 144)


def test_two_texts_share_blocks_until_both_are_over(tiny: Path):
    engine = made(tiny, instances=1, tokens=480)
    base = ids(160)
    ask(engine, [*base, 7], 3)
    ask(engine, [*base, 8, 9], 3)
    manager = fleet(engine).managers["0"]
    first, second = (manager.blocks(request) for request in manager.requests)
    assert all(one is other and one.references == 2 for one, other in zip(first[:10], second[:10], strict=True))
    assert manager.counts.own == 12
    assert fleet(engine).evict()
    assert manager.counts.own == 11
    assert ask(engine, [*base, 8, 9], 3).reused_tokens == 160
    assert kept(engine) == 0


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_whoever_is_told_may_break_off(tiny: Path, phase: str):
    class EnoughError(BaseException):
        pass

    def report(step: Step) -> None:
        if step.phase == phase and step.tokens > 2:
            raise EnoughError

    engine = made(tiny, instances=2, tokens=160)
    with pytest.raises(EnoughError):
        ask(engine, ids(200), report=report)
    assert kept(engine) == 0
    assert ask(engine, ids(200)).ids == ask(made(tiny), ids(200)).ids


SMALL: dict[str, Any] = {"vocab_size": 1024, "hidden_size": 32, "num_hidden_layers": 2, "eos_token_id": END, "bos_token_id": 0}
HEADS: dict[str, Any] = {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}


def test_windows_can_go_back(tmp_path: Path):
    folder = save(tmp_path / "model", MistralConfig(**SMALL, **HEADS, sliding_window=16, max_position_embeddings=512))
    engine = DistKVEngine(folder, instances=2, kv_memory_bytes=25_000, device="cpu", chunk_tokens=20)
    engine._block_tokens = 8
    for number, prompt in enumerate((ids(70), ids(70)[:50] + ids(9, 1))):
        answer = ask(engine, prompt, 10, stop_ids=[END])
        assert answer.reused_tokens == 48 * number
        assert [*answer.ids, *([END] if answer.stop == "end" else [])] == generated(folder, prompt, 10)


REFUSED = {
    "state space": (MambaConfig(**SMALL, state_size=4, pad_token_id=2), "has no cache that niah knows|keeps other things than keys"),
    "softcap": (Gemma2Config(**SMALL, **HEADS), r"Gemma2Attention attends in a way that distkv/ does not know \(softcap\)"),
    "positions in the scores": (BloomConfig(**SMALL, n_head=4), "BloomForCausalLM attends in a way that distkv/ does not know"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_kinds_of_attention_are_refused_and_not_computed_wrongly(tmp_path: Path, name: str):
    config, said = REFUSED[name]
    with pytest.raises(EngineError, match=said) as caught:
        ask(open_engine(save(tmp_path / "model", config)), ids(60))
    assert caught.value.kind == "checkpoint"


def test_an_architecture_of_another_family_works_if_its_attention_is_the_usual(tmp_path: Path):
    folder = save(tmp_path / "model", GPT2Config(vocab_size=1024, n_embd=32, n_layer=2, n_head=4, eos_token_id=END, bos_token_id=0))
    answer = ask(open_engine(folder), ids(60), 8, stop_ids=[END])
    assert [*answer.ids, *([END] if answer.stop == "end" else [])] == generated(folder, ids(60), 8)


def test_without_a_bound_there_is_room_for_the_models_window(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    engine = open_engine(tiny, instances=3)
    assert ask(engine, ids(4000), 5).prompt_tokens == 4000
    assert 4096 <= fleet(engine).total_slots * 64 <= 4096 + 3 * 64
    monkeypatch.setattr("niah.engines.distkv.engine.free_bytes", lambda _: 1_000_000)
    poor = open_engine(tiny)
    with pytest.raises(EngineError, match=r"the keys and values of 2,000 tokens take 1\.0 MB; 0\.8 MB are free on 1 instance of 0\.8 MB"):
        ask(poor, ids(2000))


def test_memory_that_is_not_there_or_holds_nothing_is_refused(tiny: Path):
    with pytest.raises(EngineError, match=r"2 instances with 900,000\.0 GB of KV memory each are more than") as caught:
        open_engine(tiny, instances=2, kv_memory_bytes=900_000 * 10**9)
    assert caught.value.kind == "settings"
    with pytest.raises(EngineError, match=r"0\.0 MB of KV memory an instance hold no block: 64 tokens take 0\.0 MB") as caught:
        ask(open_engine(tiny, kv_memory_bytes=10_000), ids(5))
    assert caught.value.kind == "settings"


def test_a_closed_engine_reads_the_weights_again(tiny: Path):
    engine = made(tiny, instances=2, tokens=160)
    first = ask(engine, ids(200))
    engine.close()
    assert (engine.fleet, engine._model) == (None, None)
    again = ask(engine, ids(200))
    assert (again.ids, again.reused_tokens) == (first.ids, 0)


def test_a_prompt_beyond_the_window_is_refused(tiny: Path, tmp_path: Path):
    engine = open_engine(changed(tiny, tmp_path / "short", max_position_embeddings=50))
    with pytest.raises(EngineError, match="its window is 50") as caught:
        ask(engine, ids(50))
    assert caught.value.kind == "window"
    assert len(engine.generate([ids(45)], 100, stop_ids=(), sampling=GREEDY, report=lambda _: None).ids) == 5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_answers_are_those_of_the_cpu(tiny: Path):
    gpu, cpu = open_engine(tiny, instances=4, kv_memory_bytes=160 * TOKEN_BYTES), made(tiny)
    assert gpu.device == "cuda"
    for seed in range(4):
        prompt = ids(420 - 40 * seed, seed)
        answer = ask(gpu, prompt)
        assert answer.ids == ask(cpu, prompt).ids
        assert answer.measured["remote_blocks"] > 0
