"""What the memory's rules do, measured on them alone: the properties in which equation 9 and its correction differ."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from niah.engines.infini.config import InfiniConfig
from niah.engines.infini.memory import FeatureMap, Memory, recall, write_all

SIZE = 8


def config(**options: Any) -> InfiniConfig:
    return InfiniConfig(d_model=SIZE, heads=1, head_dim=SIZE, segment_tokens=1, **options)


def told(values: list[Tensor], strength: Tensor | None = None, **options: Any) -> Tensor:
    """One key told a value a segment (strengths `[1, s, 1, n]`: n times in each): what it reads back after each segment."""
    rule = config(**options)
    times = 1 if strength is None else strength.shape[-1]
    key = FeatureMap(rule)(torch.linspace(-1, 1, SIZE, dtype=torch.float64))
    memory = Memory(torch.zeros(1, 1, SIZE, SIZE, dtype=torch.float64), torch.zeros(1, 1, SIZE, dtype=torch.float64))
    written = torch.stack(values)[None, :, None, None].expand(-1, -1, -1, times, -1)
    before, after = write_all(key.expand(1, len(values), 1, times, SIZE), written, strength, memory, rule)
    memories = [Memory(before.matrix[:, i], before.normaliser[:, i]) for i in range(1, len(values))]
    return torch.stack([recall(key.view(1, 1, 1, SIZE), each)[0].flatten() for each in (*memories, after)])


VALUE, OTHER = torch.arange(1, SIZE + 1, dtype=torch.float64), torch.linspace(5, -5, SIZE, dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({}, [1.0] * 8),
        ({"rule": "delta"}, [1.0] + [0.5] * 7),
        ({"rule": "delta", "corrected_normaliser": True}, [1.0] * 8),
    ],
    ids=["linear", "delta", "corrected"],
)
def test_a_fact_told_again(options: dict[str, Any], shares: list[float]):
    """Equation 9 as printed reads a repeated fact back at half its strength."""
    reads = told([VALUE] * 8, **options)
    assert torch.allclose(reads, torch.tensor(shares, dtype=torch.float64)[:, None] * VALUE)


@pytest.mark.parametrize(
    ("options", "old", "new"),
    [
        ({}, 0.8, 0.2),
        ({"rule": "delta"}, 0.3, 0.2),
        ({"rule": "delta", "corrected_normaliser": True}, 0.0, 1.0),
    ],
    ids=["linear", "delta", "corrected"],
)
def test_a_fact_that_changes(options: dict[str, Any], old: float, new: float):
    """Four segments say one thing, a fifth another: only the corrected rule overwrites."""
    reads = told([VALUE] * 4 + [OTHER], **options)
    assert torch.allclose(reads[-1], old * VALUE + new * OTHER)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_repeats_within_a_segment_move_a_known_key_too_far(times: int):
    """The limit of a rule that is applied per segment, which the docstring of the rule names."""
    strength = torch.ones(1, 2, 1, times, dtype=torch.float64)
    strength[:, 0, :, 1:] = 0
    reads = told([VALUE, OTHER], strength=strength, rule="delta", corrected_normaliser=True)
    assert torch.allclose(reads[0], VALUE)
    assert torch.allclose(reads[1], VALUE + times * (OTHER - VALUE))


def test_elu_plus_one_keeps_its_precision_far_below_zero():
    """Filler is kept out by keys near -12 and below: torch's elu(x) + 1 is exactly 0 in float32 from -17 on."""
    x = torch.linspace(-60, 5, 400)
    true = torch.where(x < 0, x.double().exp(), x.double() + 1)
    assert torch.allclose(FeatureMap(config())(x).double(), true, rtol=1e-5, atol=0)
    assert (torch.nn.functional.elu(x) + 1 == 0).any(), "the other way does lose it"


@pytest.mark.parametrize("kind", ["elu1", "elu1_biased", "dpfp", "softmax"])
def test_features_are_never_negative(kind: Any):
    features = FeatureMap(config(feature_map=kind))
    made = features(torch.randn(3, 1, 50, SIZE) * 3)
    assert made.shape == (3, 1, 50, features.count) and made.min() >= 0 and made.max() > 0


def test_one_fact_among_a_million_faint_tokens():
    """Float32 sums and a normaliser without an epsilon keep a fact whose own key is far below zero as well."""
    features = FeatureMap(config())
    fact, filler = features(torch.full((1, SIZE), -8.0)), features(torch.full((1, SIZE), -24.0))
    keys = torch.cat([fact, filler])[None, None, None]
    values = torch.stack([VALUE, OTHER]).float()[None, None, None]
    strength = torch.tensor([1.0, 1e6])[None, None, None]
    empty = Memory(torch.zeros(1, 1, SIZE, SIZE), torch.zeros(1, 1, SIZE))
    _, after = write_all(keys, values, strength, empty, config())
    read, known = recall(fact[None, None], after)
    share = float(1e6 * filler[0, 0] / (fact[0, 0] + 1e6 * filler[0, 0]))
    assert known.all() and share < 0.2
    assert torch.allclose(read.flatten(), ((1 - share) * VALUE + share * OTHER).float(), rtol=1e-4, atol=1e-4)


# --- frozen projections follow from a seed


def softmax(**options: Any) -> FeatureMap:
    return FeatureMap(config(feature_map="softmax", feature_count=32, **options))


def test_a_frozen_projection_follows_from_its_seed_alone():
    torch.manual_seed(1)
    first = softmax()
    torch.manual_seed(2)
    assert torch.equal(first.projection, softmax().projection)
    assert not torch.equal(first.projection, softmax(feature_seed=1).projection)
    assert torch.allclose(softmax(feature_scale=3.0).projection, 3 * first.projection)
    assert first.state_dict() == {} and [*first.parameters()] == []
    assert [name for name, _ in softmax(feature_frozen=False).named_parameters()] == ["projection"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_stored_projection_of_the_same_seed_changes_nothing(dtype: torch.dtype):
    features = softmax()
    drawn = features.projection.clone()
    features.load_state_dict({"projection": drawn.to(dtype)})
    assert torch.equal(features.projection, drawn) and features.state_dict() == {}


def test_another_projection_is_kept_and_saved_again():
    other = softmax(feature_seed=5).projection
    features = softmax()
    features.load_state_dict({"projection": other})
    assert torch.equal(features.projection, other)
    again = softmax()
    again.load_state_dict(features.state_dict())
    assert torch.equal(again.projection, other)
    with pytest.raises(RuntimeError, match="projection"):
        softmax().load_state_dict({"projection": other[:, :4]})
