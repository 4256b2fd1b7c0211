"""Recipes: typed, strict, and what differs between two of them. `pytest tests/training/test_recipe.py`"""

import json
import re
import tomllib
from pathlib import Path

import pytest

from niah.errors import UsageError
from niah.training.convert import Conversion
from niah.training.infini import reader_config
from niah.training.llama import LlamaShape
from niah.training.recipe import Recipe, Stage, differences, find_recipe, load_recipe
from tests.training.material import recipe

SHIPPED = ("reader-full", "reader-infini", "convert-infini")
GOOD = 'reader = "full"\ncorpora = ["builtin/legal"]\ntotal_tokens = 1000\n[[stages]]\ntokens = 1000\nlengths = [256]\n'


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_loads_and_its_model_can_be_made(name: str) -> None:
    made = load_recipe(find_recipe(name))
    shapes = {"full": LlamaShape, "infini": reader_config, "convert": Conversion}
    assert shapes[made.reader](**made.model)
    assert made.reader in name
    assert sum(stage.tokens for stage in made.stages) >= made.total_tokens


def test_the_conversion_is_the_papers() -> None:
    """400 steps on inputs of 5K, segments of 2K."""
    made = load_recipe(find_recipe("convert-infini"))
    (stage,) = made.stages
    assert stage.lengths == [5120]
    assert made.total_tokens / (made.batch_tokens // 5120 * 5120) == 400
    assert Conversion(**made.model).segment_tokens == 2048


def test_a_recipe_is_found_by_path_and_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD, encoding="utf-8")
    assert find_recipe(str(path)) == path
    assert find_recipe("reader-full") == find_recipe("configs/reader-full.toml").resolve()
    with pytest.raises(UsageError, match="did you mean 'reader-full'"):
        find_recipe("reader-fulll")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("corpora", "corpra"), "unknown key 'corpra'; did you mean 'corpora'"),
        (GOOD + "lenghts = [3]\n", r"unknown key 'stages\.1\.lenghts'; did you mean 'lengths'"),
        (GOOD.replace("[256]", "[16]"), r"stages\.1\.lengths\.1: Input should be greater than or equal to 256"),
        (GOOD.replace("[256]", "[]"), r"stages\.1\.lengths: List should have at least 1"),
        (GOOD.replace('"full"', '"half"'), "reader: Input should be 'full', 'infini' or 'convert'"),
        (GOOD.replace("total_tokens = 1000\n", ""), "total_tokens: Field required"),
        (GOOD + "needles_per_1k = [4, 2]\n", "needles_per_1k is a least and a most"),
        (GOOD + "passkeys = 2\n", "less than or equal to 1"),
        ("reader = ", "no valid TOML"),
    ],
)
def test_a_wrong_recipe_is_explained(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message) as caught:
        load_recipe(path)
    assert "mine.toml" in str(caught.value)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load_recipe(tmp_path / "mine.toml")


def test_a_recipe_comes_back_from_json(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(recipe().model_dump_json(), encoding="utf-8")
    assert load_recipe(path) == recipe()
    assert find_recipe(str(path)) == path


def test_differences_are_named_where_they_are() -> None:
    def plain(made: Recipe) -> object:
        return json.loads(made.model_dump_json())

    stage = plain(recipe())["stages"][0]
    assert list(differences(plain(recipe()), plain(recipe()))) == []
    changed = recipe(total_tokens=99, model={"hidden_size": 8}, stages=[{**stage, "passkeys": 0.5}])
    assert list(differences(plain(recipe()), plain(changed))) == [
        "model.hidden_size: null was, 8 is asked",
        "stages 1: passkeys: 0.0 was, 0.5 is asked",
        "total_tokens: 5120 was, 99 is asked",
    ]
    (two,) = differences(plain(recipe()), plain(recipe(stages=[stage, stage])))
    assert two.startswith("stages: [{")


def test_every_key_is_in_the_reference_with_its_default() -> None:
    text = (Path(__file__).parents[2] / "docs/reference.md").read_text(encoding="utf-8")
    table = text[text.index("## Training recipes") :].partition("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (\S.*?) \|", table, re.MULTILINE))
    fields = {**Recipe.model_fields, **Stage.model_fields}
    assert set(told) == set(fields)
    for key, field in fields.items():
        if field.is_required():
            assert told[key] == "required", key
        else:
            default = tomllib.loads(f"x = {told[key].strip('`')}")["x"]
            assert default == (list(field.default) if isinstance(field.default, tuple) else field.default), key
