"""Where a corpus can be had on the hub: haystacks/NAME.toml, one [[source]] after the other in the order in which they are tried."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from niah import resources
from niah.errors import UsageError, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a corpus can be had on the hub. `text` are the columns that are joined by empty lines; without `id` rows are numbered."""

    domain: str
    dataset: str
    config: str | None
    data_files: str | None
    split: str
    revision: str
    text: tuple[str, ...]
    id: str | None
    title: str | None
    licence: str
    url: str


def load_sources(name: str) -> tuple[Source, ...]:
    """The sources of a corpus in the order in which they are tried, from haystacks/NAME.toml."""
    path = resources.find("haystacks", name) if name in resources.names("haystacks") else None
    if path is None:
        raise UsageError(f"corpus {name!r} is not described in haystacks/; {did_you_mean(name, resources.names('haystacks'))}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no valid TOML: {error}") from None
    _check_keys(content, ("domain", "source"), required=("domain", "source"), where=str(path))
    entries: Any = content["source"]
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{path} names no source: it needs a [[source]] table")
    return tuple(_source(entry, str(content["domain"]), f"{path}, source {number}") for number, entry in enumerate(entries, 1))


def _source(entry: dict[str, Any], domain: str, where: str) -> Source:
    optional = ("config", "data_files", "id", "title")
    known = [each.name for each in fields(Source) if each.name != "domain"]
    _check_keys(entry, known, required=[key for key in known if key not in optional], where=where)
    text: list[Any] = entry["text"] if isinstance(entry["text"], list) else [entry["text"]]
    for key, value in [*((key, value) for key, value in entry.items() if key != "text"), *(("text", column) for column in text)]:
        if not isinstance(value, str):
            raise UsageError(f"{where}: {key} must be a string, not {value!r}")
    values: dict[str, Any] = {**dict.fromkeys(optional), **entry, "domain": domain, "text": tuple(text)}
    return Source(**values)


def _check_keys(table: Mapping[str, Any], known: Iterable[str], *, required: Iterable[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}; {did_you_mean(key, known)}")
    if lacking := [key for key in required if key not in table]:
        raise UsageError(f"{where}: {lacking[0]!r} is missing")
