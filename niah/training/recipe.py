"""A training recipe: one TOML file in configs/, typed and strict."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from niah import resources
from niah.errors import UsageError, did_you_mean

ReaderKind = Literal["full", "infini", "convert"]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stage(_Strict):
    """One part of the curriculum. It ends when exact recall over the last steps reaches `advance_at`, or after `tokens` tokens."""

    tokens: Count
    lengths: Annotated[list[Annotated[int, Field(ge=256)]], Field(min_length=1)]
    """Tokens of a text with its questions; each step draws one."""
    needles_per_1k: tuple[float, float] = (2.0, 8.0)
    advance_at: Share = 1.0
    near_misses: Share = 0.5
    question_first: Share = 0.0
    real_sentences: Share = 0.3
    random_sentences: Share = 0.1
    passkeys: Share = 0.0
    repeated: Share = 0.0
    """Texts made of a few sentences over and over, beside those that the noise has anyway."""
    virtual_times: Annotated[float, Field(ge=1)] = 1.0
    """Filler counts up to so many times in the attention or the memory (log-uniform)."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not 0 <= self.needles_per_1k[0] <= self.needles_per_1k[1]:
            raise ValueError("needles_per_1k is a least and a most")
        return self


class Recipe(_Strict):
    """How a reader is trained. Tokens are counted over all sequences, answers included."""

    reader: ReaderKind
    """`full` and `infini` are the bundled readers; `convert` goes on with a checkpoint whose attention is replaced by Infini-attention."""
    seed: int = 0
    corpora: Annotated[list[str], Field(min_length=1)]
    batch_tokens: Count = 8192
    total_tokens: Annotated[int, Field(ge=0)]
    """The learning rate falls to zero over the last `decay` of them. With 0 no step is taken: the weights are those it begins with."""
    decay: Share = 0.35
    warmup_steps: Count = 20
    muon_learning_rate: Rate = 0.008
    """Of the matrices inside the layers, relative to their size (`RelativeMuon`); 0: they learn by AdamW as the rest does."""
    adam_learning_rate: Rate = 0.001
    gate_learning_rate: Rate = 0.01
    clip: Annotated[float, Field(gt=0)] = 1.0
    model: dict[str, Any] = {}
    """Sizes, as `LlamaShape`, `reader_config` or `converted` take them."""
    stages: Annotated[list[Stage], Field(min_length=1)]


def load_recipe(path: Path) -> Recipe:
    """The recipe in `path`, TOML or JSON; UsageError says what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
        return Recipe.model_validate(json.loads(text) if path.suffix == ".json" else tomllib.loads(text))
    except OSError as error:
        raise UsageError(f"recipe {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {path} is no valid {path.suffix.removeprefix('.').upper()}: {error}") from None
    except ValidationError as error:
        raise UsageError(f"recipe {path}: {_problem(error)}") from None


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or the name of one in configs/."""
    path = Path(name).expanduser()
    found = path if path.suffix in (".toml", ".json") and path.is_file() else resources.find("configs", path.name)
    if found is None:
        near = did_you_mean(path.stem, [known for known in resources.names("configs") if "reader" in known or "infini" in known])
        raise UsageError(f"recipe {name!r} is neither a file nor a name in configs/; {near}")
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any], under: str = "") -> Iterator[str]:
    """What is not alike in two recipes, as "total_tokens: 100 was, 200 is asked"."""
    for key in sorted({*old, *new}):
        was, asked = old.get(key), new.get(key)
        if isinstance(was, dict) and isinstance(asked, dict):
            yield from differences(was, asked, f"{under}{key}.")
        elif isinstance(was, list) and isinstance(asked, list) and len(was) == len(asked) > 0 and isinstance(was[0], dict):
            for number, (one, other) in enumerate(zip(was, asked, strict=True), 1):
                yield from differences(one, other, f"{under}{key} {number}: ")
        elif was != asked:
            yield f"{under}{key}: {json.dumps(was)} was, {json.dumps(asked)} is asked"


def _problem(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    first = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
    where = ".".join(str(part + 1 if isinstance(part, int) else part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = Stage.model_fields if first["loc"][0] == "stages" else Recipe.model_fields
        return f"unknown key {where!r}; {did_you_mean(str(first['loc'][-1]), known)}"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"
