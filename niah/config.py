"""Experiments: what a sweep measures, typed, from a TOML file and the command line's overrides.

Unknown keys are refused with the nearest known one. Everything below sees an `Experiment` and never a file or an option.
"""

import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from niah import resources
from niah.errors import UsageError, did_you_mean
from niah.trial import Sampling

_UNITS = {"": 1, "k": 1_000, "m": 1_000_000}
_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_ELSEWHERE = {
    "name", "base_url", "key_variable", "instances", "kv_memory", "cluster", "concurrency", "timeout_seconds", "strict",
    "max_cost", "max_tokens",
}  # fmt: skip
"""What two runs of the same experiment may differ in."""


class SamplingTable(BaseModel):
    """[sampling]: what is not given is left to the server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_output_tokens: int = Field(default=2048, ge=1, description="cap on the answer, thinking included")
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)

    def typed(self) -> Sampling:
        return Sampling(**self.model_dump())


class Experiment(BaseModel):
    """One experiment. Field order is the order of `run.json` and of the documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="experiment", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="begins the name of the run's folder")
    models: tuple[str, ...] = Field(min_length=1, description="backend/model, as in server/llama or baseline/bm25")
    base_url: str | None = Field(default=None, description="where server/ models answer, ending in /v1")
    key_variable: str | None = Field(default=None, description="environment variable with the key, instead of the usual one")
    raw: bool = Field(default=False, description="server/ and local models are base models: no chat template")
    instances: int = Field(default=1, ge=1, description="how many instances share the KV cache of a distkv/ model")
    kv_memory: int | None = Field(default=None, ge=1, description="bytes of KV cache an instance, as in 256MB; default what is free")
    cluster: str | None = Field(default=None, description="Ray cluster of the instances: auto, local, HOST:PORT or ray://HOST:PORT")
    corpora: tuple[str, ...] = Field(min_length=1, description="builtin/NAME, a prepared corpus, or a path")
    needles: str = Field(default="default", description="a needle set's name or file, or words, numbers, uuids")
    lengths: tuple[int, ...] = Field(min_length=1, description="tokens of the whole prompt: a list, or {from, to, steps, scale}")
    depths: tuple[float, ...] = Field(min_length=1, description="fractions 0-1: a list, or {steps, scale}")
    reshuffles: int = Field(default=20, ge=1, description="trials a cell, spread over the corpora")
    cue: tuple[Literal["auto", "off", "user", "prefill"], ...] = Field(default=("auto",), min_length=1, description="one mode or several")
    template: str = Field(default="default", description="the words around the context: a name or a TOML file")
    tokenizer: str = Field(default="niah-8k", description="in whose tokens the lengths are")
    seed: int = Field(default=0, description="draws reshuffles and deals needles")
    haystack: Literal["shared", "independent"] = Field(default="shared", description="shared: shorter haystacks begin longer ones")
    distractors: int = Field(default=0, ge=0, description="near misses hidden beside each needle")
    strict: bool = Field(default=False, description="a document that gives a needle away is an error, not a warning")
    scorers: tuple[str, ...] = Field(default=("contains",), min_length=1, description="the first one makes the recall")
    concurrency: int | None = Field(default=None, ge=1, description="requests in flight; default 64 for servers, 1 for local readers")
    timeout_seconds: float = Field(default=600, gt=0, description="longest wait for one answer")
    max_cost: float | None = Field(default=None, gt=0, description="dollars that a run may spend: a hard cap")
    max_tokens: int | None = Field(default=None, ge=1, description="tokens, input and output, that a run may use: a hard cap")
    sampling: SamplingTable = SamplingTable()

    @field_validator("models", "corpora", "scorers", "cue", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("models", "corpora", "scorers", "cue", mode="after")
    @classmethod
    def _no_doubles(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))

    @field_validator("max_tokens", mode="before")
    @classmethod
    def _max_tokens(cls, value: Any) -> Any:
        return parse_length(value) if isinstance(value, str) else value

    @field_validator("kv_memory", mode="before")
    @classmethod
    def _kv_memory(cls, value: Any) -> Any:
        return parse_bytes(value) if isinstance(value, str) else value

    @field_validator("lengths", mode="before")
    @classmethod
    def _lengths(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return _scale(value, "lengths")
        return sorted({parse_length(item) for item in _listed(value)})

    @field_validator("depths", mode="before")
    @classmethod
    def _depths(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return _scale(value, "depths")
        return sorted({parse_depth(item) for item in _listed(value)})

    def identity(self) -> dict[str, Any]:
        """The fields that make two runs the same experiment: how fast, where, and under which name does not matter."""
        return self.model_dump(mode="json", exclude=_ELSEWHERE)


def parse_length(value: Any) -> int:
    """Tokens from 4000, "4000", "4k" (4,000) or "1M" (1,000,000)."""
    match = re.fullmatch(r"(\d+(?:[.]\d+)?)([kKmM]?)", str(value).replace("_", "").strip())
    tokens = float(match[1]) * _UNITS[match[2].lower()] if match and not isinstance(value, bool) else 0
    if tokens < 1 or tokens != int(tokens):
        raise ValueError(f"{value!r} is no length: write whole tokens, as in 4000, 4k or 1M")
    return int(tokens)


def parse_bytes(text: str) -> int:
    """Bytes from "256MB", "1.5 GB" or "64MiB"."""
    match = re.fullmatch(r"(\d+(?:[.]\d+)?) ?([kmg]i?)?b", text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is no amount of memory: write bytes, as in 256MB, 1.5GB or 64MiB")
    return int(float(match[1]) * _BYTES[match[2] or ""])


def parse_depth(value: Any) -> float:
    """A fraction from 0 to 1."""
    try:
        depth = float(value)
    except (TypeError, ValueError):
        depth = math.nan
    if not 0 <= depth <= 1 or isinstance(value, bool):
        raise ValueError(f"{value!r} is no depth: depths are fractions from 0 (before all text) to 1 (after all text), so 50% is 0.5")
    return depth


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _scale(table: Mapping[str, Any], field: str) -> list[int] | list[float]:
    """The values of {from, to, steps, scale}: linear, log (dense at the beginning) or, for depths, sigmoid (dense at both ends)."""
    known = {"from", "to", "steps", "scale"}
    for key in table:
        if key not in known:
            raise ValueError(f"unknown key {key!r}; {did_you_mean(key, known)}")
    scale, steps = table.get("scale", "linear"), table.get("steps")
    scales = ["linear", "log"] + ["sigmoid"] * (field == "depths")
    if scale not in scales:
        raise ValueError(f"scale {scale!r} is unknown; {did_you_mean(str(scale), scales)}")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 2:
        raise ValueError("steps must be a whole number of at least 2")
    fractions = [step / (steps - 1) for step in range(steps)]
    if field == "lengths":
        if "from" not in table or "to" not in table:
            raise ValueError('a scale of lengths needs from and to, as in {from = "1k", to = "128k", steps = 8, scale = "log"}')
        low, high = parse_length(table["from"]), parse_length(table["to"])
        curve = [low * (high / low) ** x if scale == "log" else low + (high - low) * x for x in fractions]
        return sorted({round(value) for value in curve})
    low_depth, high_depth = parse_depth(table.get("from", 0)), parse_depth(table.get("to", 1))
    return sorted({round(low_depth + (high_depth - low_depth) * _bent(x, scale), 4) for x in fractions})


def _bent(x: float, scale: str) -> float:
    """A fraction moved along a scale; the sigmoid is the logistic curve of the classic test, stretched so that 0 and 1 are reached."""
    if scale == "linear":
        return x
    if scale == "log":
        return (101**x - 1) / 100
    ends = [1 / (1 + math.exp(-10 * (point - 0.5))) for point in (0, x, 1)]
    return (ends[1] - ends[0]) / (ends[2] - ends[0])


def load_experiment(config: str | None, overrides: Mapping[str, Any]) -> Experiment:
    """The experiment of a config (a name or a file; None: the quickstart) with single fields overridden.

    UsageError names file and line of a wrong value, or the option it came from.
    """
    path = _path(config or "quickstart")
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"config {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"config {path} is no valid TOML: {error}") from None
    data.setdefault("name", re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip(".-_") or "experiment")
    given = {key: value for key, value in overrides.items() if value is not None}
    try:
        return Experiment.model_validate({**data, **given})
    except ValidationError as error:
        raise UsageError(_explain(error, path, text, given)) from None


def _path(config: str) -> Path:
    path = Path(config).expanduser()
    if path.suffix == ".toml" or path.is_file():
        return path
    found = resources.find("configs", config)
    if found is None:
        raise UsageError(f"config {config!r} is neither a file nor a known name; {did_you_mean(config, resources.names('configs'))}")
    return found


def _explain(error: ValidationError, path: Path, text: str, given: Mapping[str, Any]) -> str:
    """The first problem in one line: where, what, and the nearest known key."""
    problems = error.errors(include_url=False)
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    names = [str(part) for part in problem["loc"] if isinstance(part, str)]
    key = names[-1] if names else ""
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        known = SamplingTable.model_fields if len(names) > 1 else Experiment.model_fields
        message = f"unknown key {key!r}; {did_you_mean(key, known)}"
    elif problem["type"] == "literal_error":
        choices: list[str] = re.findall(r"'([^']*)'", problem["msg"])
        message = f"{problem['input']!r} is unknown; {did_you_mean(str(problem['input']), choices)}"
    elif problem["type"] == "missing":
        message = f"{key!r} is missing"
    if names and names[0] in given:
        option = {"models": "model", "corpora": "corpus"}.get(names[0], names[0])
        return f"--{option.replace('_', '-')}: {message}"
    if problem["type"] not in ("extra_forbidden", "missing"):
        message = f"{'.'.join(names)}: {message}"
    line = next((n for n, line in enumerate(text.splitlines(), 1) if re.match(rf"\s*\[?{re.escape(key)}\b", line)), None)
    return f"{path}{f', line {line}' if line else ''}: {message}"
