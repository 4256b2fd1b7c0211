"""Experiments from files and options. `pytest tests/test_config.py`"""

from pathlib import Path
from typing import Any

import pytest

from niah import resources
from niah.config import Experiment, load_experiment, parse_length
from niah.errors import UsageError
from niah.training.recipe import load_recipe

BASE = 'models = ["baseline/bm25"]\ncorpora = "builtin/legal"\nlengths = ["4k"]\ndepths = [0, 1]\n'


def load(tmp_path: Path, text: str = BASE, **overrides: Any) -> Experiment:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return load_experiment(str(path), overrides)


def test_every_config_that_comes_with_niah_loads() -> None:
    names = resources.names("configs")
    assert {"quickstart", "anthropic", "classic", "cue-ablation"} <= set(names)
    for name in names:
        path = resources.find("configs", name)
        assert path
        if "\nreader = " in path.read_text(encoding="utf-8"):
            assert load_recipe(path).stages, name
        else:
            assert load_experiment(name, {}).name == name


def test_the_protocols_have_their_published_sizes() -> None:
    """1,760 trials for the Claude 3 protocol; 15 x 15 for the classic one; three cue modes for the ablation."""
    anthropic, classic, ablation = (load_experiment(name, {}) for name in ("anthropic", "classic", "cue-ablation"))
    assert len(anthropic.lengths) * len(anthropic.depths) * anthropic.reshuffles == 1760
    assert anthropic.lengths[-1] == 200_000
    assert (len(anthropic.corpora), anthropic.needles, anthropic.cue) == (4, "default", ("auto",))
    assert (len(classic.lengths), len(classic.depths), classic.needles) == (15, 15, "san-francisco")
    assert ablation.cue == ("off", "user", "prefill")


COSTLY = ["anthropic", "classic", "cue-ablation", "near-misses"]
LOCAL = ["bundled", "passkey-1m", "needles-1m", "needles-1m-question-first"]


@pytest.mark.parametrize("name", [*COSTLY, *LOCAL])
def test_the_costs_in_the_comments_are_right(name: str) -> None:
    """Each config's comment says how many tokens it asks and what that costs at $3 per million, or nothing in this process."""
    path = resources.find("configs", name)
    assert path
    comment = " ".join(line.removeprefix("#").strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    experiment = load_experiment(name, {})
    prompts = len(experiment.depths) * experiment.reshuffles * len(experiment.cue)
    tokens = sum(experiment.lengths) * prompts
    assert f"{prompts * len(experiment.lengths):,} prompts" in comment
    assert f"{tokens / 1e6:.1f} million input tokens" in comment
    assert ("costs nothing" if name in LOCAL else f"${tokens * 3 / 1e6:.0f}") in comment


def test_the_tests_of_the_papers_memory_have_their_shape() -> None:
    """Table 3 to 1M with the end as a depth of its own; natural text with the question behind and in front, else alike."""
    passkey, last, first = (load_experiment(name, {}) for name in LOCAL[1:])
    assert (passkey.lengths[0], passkey.lengths[-1], passkey.depths) == (32_000, 1_000_000, (0, 0.5, 1))
    assert (passkey.corpora, passkey.needles, passkey.template) == (("builtin/repeated",), "passkey", "passkey")
    differing = {"name", "template"}
    assert last.model_dump(exclude=differing) == first.model_dump(exclude=differing)
    assert last.needles == "default"
    assert (last.template, first.template) == ("default", "question-first")
    assert last.lengths[0] == 1000
    assert last.lengths[-1] == 1_000_000


@pytest.mark.parametrize(
    ("given", "tokens"), [("4k", 4000), ("1M", 1_000_000), ("1.5k", 1500), (128000, 128_000), ("32_000", 32_000), ("2m", 2_000_000)]
)
def test_lengths(given: object, tokens: int) -> None:
    assert parse_length(given) == tokens


def test_lists_are_sorted_and_told_once_and_options_override(tmp_path: Path) -> None:
    experiment = load(
        tmp_path, lengths=["16k", "1k", "1000"], depths=["1", "0.5"], models=["baseline/bm25", "server/x"], cue=["off", "user"]
    )
    assert experiment.lengths == (1000, 16000)
    assert experiment.depths == (0.5, 1.0)
    assert experiment.models == ("baseline/bm25", "server/x")
    assert experiment.cue == ("off", "user")
    assert experiment.name == "mine"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ('{from = "1k", to = "8k", steps = 4, scale = "log"}', (1000, 2000, 4000, 8000)),
        ('{from = "1k", to = "4k", steps = 4}', (1000, 2000, 3000, 4000)),
    ],
)
def test_scales_of_lengths(tmp_path: Path, spec: str, expected: tuple[int, ...]) -> None:
    assert load(tmp_path, BASE.replace('["4k"]', spec)).lengths == expected


def test_scales_of_depths(tmp_path: Path) -> None:
    """Linear is even, log is dense at the beginning, sigmoid at both ends; all reach 0 and 1."""
    linear, log, sigmoid = (
        load(tmp_path, BASE.replace("[0, 1]", f'{{steps = 5, scale = "{scale}"}}')).depths for scale in ("linear", "log", "sigmoid")
    )
    assert linear == (0, 0.25, 0.5, 0.75, 1)
    assert log[0] == sigmoid[0] == 0
    assert log[-1] == sigmoid[-1] == 1
    assert log[1] < 0.03
    assert log[3] > 0.3
    assert sigmoid[1] < 0.1
    assert sigmoid[2] == 0.5
    assert sigmoid[3] > 0.9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASE + 'nedles = "x"', r"mine\.toml, line 5: unknown key 'nedles'; did you mean 'needles'"),
        (BASE.replace("depths", "depth"), r"line 4: unknown key 'depth'; did you mean 'depths'"),
        (BASE + "[sampling]\ntemprature = 1", r"line 6: unknown key 'temprature'; did you mean 'temperature'"),
        (BASE.replace('"4k"', '"4q"'), r"line 3: lengths: '4q' is no length"),
        (BASE.replace('"4k"', "0"), "0 is no length"),
        (BASE.replace('"4k"', "1.5"), "1.5 is no length"),
        (BASE.replace("[0, 1]", "[50]"), r"line 4: depths: 50 is no depth.*50% is 0\.5"),
        (BASE.replace("[0, 1]", "[-0.1]"), "-0.1 is no depth"),
        (BASE.replace("[0, 1]", "[]"), "depths: .*at least 1 item"),
        (BASE.replace("depths = [0, 1]", ""), "'depths' is missing"),
        (BASE.replace("[0, 1]", "{steps = 1}"), "steps must be a whole number of at least 2"),
        (BASE.replace("[0, 1]", "{stepps = 3}"), "unknown key 'stepps'; did you mean 'steps'"),
        (BASE.replace("[0, 1]", '{steps = 3, scale = "sigmoidal"}'), "did you mean 'sigmoid'"),
        (BASE.replace('["4k"]', '{steps = 3, scale = "sigmoid"}'), "scale 'sigmoid' is unknown"),
        (BASE.replace('["4k"]', "{steps = 3}"), "needs from and to"),
        (BASE + "reshuffles = 0", "reshuffles: .*greater than or equal to 1"),
        (BASE + 'cue = "usr"', "cue: 'usr' is unknown; did you mean 'user'"),
        (BASE + 'haystack = "independant"', "line 5: haystack: 'independant' is unknown; did you mean 'independent'"),
        (BASE + "lengths = ", "no valid TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"depths": ["1.5"]}, r"^--depths: '1\.5' is no depth"),
        ({"lengths": ["4x"]}, "^--lengths: '4x' is no length"),
        ({"cue": ["usr"]}, "^--cue: "),
        ({"reshuffles": -1}, "^--reshuffles: "),
    ],
)
def test_what_is_wrong_in_an_option_is_said_with_its_name(tmp_path: Path, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(tmp_path, **overrides)


def test_configs_that_are_not_there() -> None:
    with pytest.raises(UsageError, match="did you mean 'quickstart'"):
        load_experiment("quickstrat", {})
    with pytest.raises(UsageError, match=r"none\.toml cannot be read"):
        load_experiment("none.toml", {})


def test_a_config_of_the_working_directory_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.toml").write_text(BASE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_experiment(None, {}).lengths == (4000,)


def test_identity_leaves_out_what_does_not_change_the_measurement(tmp_path: Path) -> None:
    plain, faster, other = load(tmp_path), load(tmp_path, concurrency=3, base_url="http://x"), load(tmp_path, seed=1)
    assert plain.identity() == faster.identity() != other.identity()
