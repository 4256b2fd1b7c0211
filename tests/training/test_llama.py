"""The Llama that is trained is the library's. `pytest tests/training/test_llama.py`"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM

from niah.training.llama import NEAR_TOKENS, Llama, LlamaShape, repetition_mask

SHAPES = {
    "small": LlamaShape(hidden_size=32, intermediate_size=24, num_hidden_layers=2, head_dim=8, rope_theta=1e4),
    "shared heads": LlamaShape(hidden_size=32, num_hidden_layers=1, num_key_value_heads=2, head_dim=16, rope_theta=1e6),
    # Its heads; rotations are in single precision on both sides, which a wider or deeper model of random weights makes larger.
    "the reader's": LlamaShape(num_hidden_layers=1, intermediate_size=192),
}


def ours_and_theirs(shape: LlamaShape) -> tuple[Llama, LlamaForCausalLM]:
    torch.manual_seed(3)
    ours = Llama(shape)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2 + (1.0 if parameter.ndim == 1 else 0.0))
    theirs = LlamaForCausalLM(LlamaConfig(**shape.to_hugging_face()))
    lacking = theirs.load_state_dict({f"model.{name}": value for name, value in ours.state_dict().items()}, strict=False)
    assert (lacking.missing_keys, lacking.unexpected_keys) == (["lm_head.weight"], [])
    theirs.tie_weights()
    return ours.eval(), theirs.eval().float()


@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_those_of_transformers(name: str) -> None:
    """At any positions: training draws them, so that they do not run from 0 on."""
    ours, theirs = ours_and_theirs(SHAPES[name])
    ids = torch.randint(0, 97, (2, 40))
    for positions in (torch.arange(40).expand(2, 40), torch.randint(0, 3, (2, 40)).cumsum(1) + 1000):
        with torch.no_grad():
            expected = theirs(ids, position_ids=positions).logits
            torch.testing.assert_close(ours.logits(ours(ids, positions)), expected, rtol=1e-4, atol=1e-4)


def test_the_config_says_what_transformers_needs() -> None:
    config = LlamaConfig(**LlamaShape().to_hugging_face())
    assert (config.head_dim, config.attention_bias, config.tie_word_embeddings) == (112, True, True)
    assert config.rope_parameters["rope_theta"] == 1e20


@settings(deadline=None, max_examples=25)
@given(times=st.integers(1, 6), seed=st.integers(0, 2**31), tokens=st.integers(2, 2 * NEAR_TOKENS))
def test_a_repetition_mask_is_attention_over_so_many_copies_of_the_filler(times: int, seed: int, tokens: int) -> None:
    """Query by query, with the copies really there: each filler key that is neither near nor ahead stands `times` times."""
    random = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(1, 2, tokens, 8, generator=random, dtype=torch.float64) for _ in range(3))
    filler = torch.rand(1, tokens, generator=random) < 0.7
    masked = scaled_dot_product_attention(query, key, value, attn_mask=repetition_mask(filler, times).double())
    for at in {0, tokens // 2, tokens - 1}:
        copied = [times if filler[0, j] and at - j > NEAR_TOKENS else 1 for j in range(at + 1)]
        keys = key[:, :, : at + 1].repeat_interleave(torch.tensor(copied), dim=2)
        values = value[:, :, : at + 1].repeat_interleave(torch.tensor(copied), dim=2)
        plain = scaled_dot_product_attention(query[:, :, at : at + 1], keys, values)
        torch.testing.assert_close(masked[:, :, at : at + 1], plain, rtol=1e-6, atol=1e-6)


def test_without_repetition_the_mask_is_causal_attention() -> None:
    ours, _ = ours_and_theirs(SHAPES["small"])
    ids, positions = torch.randint(0, 97, (2, 30)), torch.arange(30).expand(2, 30)
    with torch.no_grad():
        masked = ours(ids, positions, repetition_mask(torch.ones(2, 30, dtype=torch.bool), 1.0))
        torch.testing.assert_close(masked, ours(ids, positions), rtol=1e-5, atol=1e-5)
