"""The mistakes that `benchmarks/distkv_mutants.py` makes can still be made: else it would say of none that it is noticed."""

import ast
import tomllib
from pathlib import Path
from typing import Any

import pytest

from niah.engines import distkv

MUTANTS: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "mutants.toml").read_text(encoding="utf-8"))["mutant"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant["what"])
def test_a_mutant_is_one_change_that_python_can_read(mutant: dict[str, Any]):
    right = (Path(distkv.__file__).parent / mutant["file"]).read_text(encoding="utf-8")
    assert right.count(mutant["old"]) == 1
    wrong = right.replace(mutant["old"], mutant["new"])
    assert ast.dump(ast.parse(wrong)) != ast.dump(ast.parse(right))


def test_all_say_something_else():
    assert len({mutant["what"] for mutant in MUTANTS}) == len(MUTANTS) > 22
