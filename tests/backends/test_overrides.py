"""The user's file: facts that replace the packaged ones, and what is wrong in it."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from niah.backends import models
from niah.backends.model_facts import KEYS
from niah.backends.models import Capabilities, Prices, Tier, capabilities, cost_dollars, most_dollars, packaged
from niah.errors import UsageError
from niah.trial import Usage
from tests.backends.facts_file import no_file_of_the_tester, override

__all__ = ["no_file_of_the_tester", "override"]

ROOT = Path(__file__).parent.parent.parent


def test_the_users_facts_of_a_model_that_nobody_knows(override: Any):
    path = override("""
[models."server/llama"]
window_tokens = 131_072
max_output_tokens = 8192
prefill = true
sampling = true
thinking = "optional"
cache_min_tokens = 16
retires = 2027-01-31
price = {input = 0.5, output = 1.5, cache_read = 0.05}
tiers = [{above_tokens = 64_000, input = 1, output = 3, batch = {input = 0.5}}]
batch = {input = 0.25, output = 0.75}
""")
    assert capabilities("server/llama") == Capabilities(
        model="server/llama",
        source=f"override {path}",
        window_tokens=131_072,
        max_output_tokens=8192,
        prefill=True,
        sampling=True,
        thinking="optional",
        cache_min_tokens=16,
        retires="2027-01-31",
        prices=Prices(input=0.5, output=1.5, cache_read=0.05),
        tiers=(Tier(above_tokens=64_000, prices=Prices(input=1, output=3), batch=Prices(input=0.5)),),
        batch=Prices(input=0.25, output=0.75),
    )
    assert capabilities("server/qwen").source == "unknown"


def test_single_facts_replace_packaged_ones(override: Any):
    before = capabilities("anthropic/claude-haiku-5-5")
    path = override('[models."anthropic/claude-haiku-5-5"]\nwindow_tokens = 200_000')
    after = capabilities("anthropic/claude-haiku-5-5")
    assert after == replace(before, window_tokens=200_000, source=f"override {path} over {before.source}")


def test_a_price_replaces_all_that_was_known_of_money(override: Any):
    override('[models."openai/gpt-6.1-sol"]\nprice = {input = 3, output = 12}')
    known = capabilities("openai/gpt-6.1-sol")
    assert (known.prices, known.tiers, known.batch) == (Prices(input=3, output=12), (), None)
    assert known.thinking == "always"


def test_prices_of_batches_alone(override: Any):
    live = capabilities("openai/gpt-6.1-sol")
    override('[models."openai/gpt-6.1-sol"]\nbatch = {input = 1.5, output = 6}')
    known = capabilities("openai/gpt-6.1-sol")
    assert known.prices == live.prices
    assert [tier.prices for tier in known.tiers] == [tier.prices for tier in live.tiers]
    assert known.batch == Prices(input=1.5, output=6)
    assert known.tiers[0].batch is None, "the packaged one does not belong to the user's"


def test_a_batch_discount(override: Any):
    override("""
[models."server/x"]
price = {input = 0.3, output = 2}
tiers = [{above_tokens = 10, input = 1, output = 3}]
batch_discount = 0.4
""")
    known = capabilities("server/x")
    assert known.batch == Prices(input=0.18, output=1.2)
    assert known.tiers[0].batch == Prices(input=0.6, output=1.8)


def test_a_deployment_is_like_a_model(override: Any):
    path = override("""
[models."azure/prod"]
like = "azure/eu/gpt-6.1-sol"
[models."azure/other"]
like = "anthropic/claude-haiku-4-5-latest"
prefill = false
""")
    near = packaged()["azure/eu/gpt-6.1-sol"]
    assert capabilities("azure/prod") == replace(near, model="azure/prod", source=f"override {path} over {near.source} ({near.model})")
    assert capabilities("azure/other").prices == packaged()["anthropic/claude-haiku-4-5"].prices
    assert capabilities("azure/other").prefill is False


def test_free_is_what_the_user_calls_free(override: Any):
    override('[models."server/mine"]\nprice = {input = 0, output = 0}')
    assert cost_dollars(Usage(input=10**6, output=10), capabilities("server/mine")) == 0
    assert most_dollars(10**6, 10, capabilities("server/mine")) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[models", "mine.toml is no valid TOML"),
        ('[modles."server/x"]', "unknown key 'modles'; did you mean 'models'?"),
        ("models = 3", "mine.toml: models: 3 is no table"),
        ("[models.llama]\nprefill = true", '[models."server/llama"]'),
        ('[models]\n"server/x" = 3', '[models."server/x"]: 3 is no table'),
        ('[models."server/x"]\nwindow_token = 3', "unknown key 'window_token'; did you mean 'window_tokens'?"),
        ('[models."server/x"]\nwindow_tokens = "3k"', "window_tokens: '3k' is no number of tokens"),
        ('[models."server/x"]\nmax_output_tokens = 0', "max_output_tokens: 0 is no number of tokens"),
        ('[models."server/x"]\ncache_min_tokens = true', "cache_min_tokens: True is no number of tokens"),
        ('[models."server/x"]\nprefill = 1', "prefill: 1 is none of true, false"),
        ('[models."server/x"]\nthinking = "never"', "thinking: 'never' is none of always, default, optional, none"),
        ('[models."server/x"]\nretires = "soon"', "retires: 'soon' is no date as in"),
        ('[models."server/x"]\nprice = 3', "price: 3 is no table"),
        ('[models."server/x"]\nprice = {input = 3}', "price: 'output' is missing"),
        ('[models."server/x"]\nprice = {input = 3, output = 1, cached = 1}', "price: unknown key 'cached'; did you mean 'cache_read'?"),
        ('[models."server/x"]\nprice = {input = -3, output = 1}', "price.input: -3 is no number from 0 to"),
        ('[models."server/x"]\nprice = {input = nan, output = 1}', "price.input: nan is no number"),
        ('[models."server/x"]\nprice = {input = inf, output = 1}', "price.input: inf is no number"),
        ('[models."server/x"]\nprice = {input = true, output = 1}', "price.input: True is no number"),
        ('[models."server/x"]\ntiers = 3', "tiers: 3 is no list"),
        ('[models."server/x"]\ntiers = [{input = 3, output = 1}]', "tiers above_tokens: None is no number of tokens"),
        ('[models."server/x"]\ntiers = [{above_tokens = 3, input = 3}]', "tiers: 'output' is missing"),
        ('[models."server/x"]\nbatch = {inputs = 3}', "batch: unknown key 'inputs'; did you mean 'input'?"),
        ('[models."server/x"]\nbatch_discount = 0.5', "batch_discount: it needs a price"),
        ('[models."server/x"]\nprice = {input=1, output=1}\nbatch = {}\nbatch_discount = 0.5', "give it or batch, not both"),
        ('[models."server/x"]\nprice = {input=1, output=1}\nbatch_discount = 50', "batch_discount: 50 is no number from 0 to 1"),
        (
            '[models."azure/x"]\nlike = "openai/gpt-6.1-soll"',
            "nothing is known of 'openai/gpt-6.1-soll'; did you mean 'openai/gpt-6.1-sol'?",
        ),
        ('[models."azure/x"]\nlike = "zzz"', "nothing is known of 'zzz'; name a known model"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(override: Any, text: str, message: str):
    path = override(text)
    with pytest.raises(UsageError) as caught:
        capabilities("server/anything")
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_named_file_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NIAH_MODELS", str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match=r"none\.toml cannot be read"):
        capabilities("server/x")
    monkeypatch.setenv("NIAH_MODELS", str(tmp_path))
    with pytest.raises(UsageError, match="cannot be read"):
        capabilities("server/x")


@pytest.mark.parametrize(
    ("platform", "folder"),
    [
        ("linux", "xdg"),
        ("darwin", "home/Library/Application Support"),
        ("win32", "appdata"),
    ],
)
def test_the_config_folder_of_the_platform(platform: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "appdata"))
    assert models.overrides_path() is None
    place = tmp_path / folder / "niah" / "models.toml"
    place.parent.mkdir(parents=True)
    place.write_text('[models."server/x"]\nprefill = true')
    assert models.overrides_path() == place
    assert capabilities("server/x").prefill is True


def test_the_file_is_read_again_when_it_changes(override: Any):
    path = override('[models."server/x"]\nprefill = true')
    assert capabilities("server/x").prefill is True
    path.write_text('[models."server/x"]\nprefill = false')
    assert capabilities("server/x").prefill is False


def test_the_examples_of_the_guide_load(override: Any):
    text = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if "[models." in block]
    assert blocks
    override("\n".join(blocks))
    assert capabilities("server/llama").source.startswith("override")
    assert {*KEYS} - set(re.findall(r"`(\w+)`", text)) == set()
