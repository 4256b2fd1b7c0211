"""Corpora: where the text of a haystack comes from. `open_corpus(name)` gives one of:

- `builtin/wikipedia` ...: written by a grammar, offline and unlimited;
- `wikipedia`, `legal`, `financial`, `medical`: a snapshot of a hub data set, made once by `niah haystack prepare`;
- a path to a file or folder of .txt, .md, .jsonl or .parquet.

A corpus never changes: its fingerprint stands for every byte of it.
"""

import hashlib
import json
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from niah import resources
from niah.errors import CorpusError, UsageError, did_you_mean
from niah.task.seeded import Draw

BLOCK = 1024
"""An unlimited corpus is permuted in blocks of so many documents, so that its beginning does not depend on how far it is read."""
REPEATED = "builtin/repeated"
"""The only corpus that repeats itself: the filler of the passkey test."""
SUFFIXES = (".txt", ".md", ".jsonl", ".parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text. `id` is unique in its corpus; `title` may be empty."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Documents by number. `size` is None for a corpus without end; `about` says for people where it comes from."""

    name: str
    fingerprint: str
    size: int | None
    about: str
    document: Callable[[int], Document] = field(repr=False)

    def order(self, draw: Draw) -> Iterator[int]:
        """The numbers of the documents in drawn order: all of them, or without end."""
        if self.size is not None:
            yield from draw.permuted(self.size)
            return
        start = 0
        while True:
            yield from (start + number for number in draw.permuted(BLOCK))
            start += BLOCK


def open_corpus(name: str) -> Corpus:
    """The corpus called `name` or standing at that path; CorpusError or UsageError says what is wrong."""
    if name.startswith("builtin/"):
        return _builtin(name)
    if name in hub_names():
        return _snapshot(name)
    path = Path(name).expanduser()
    if path.exists():
        return _files(path)
    known = [*hub_names(), *builtin_names()]
    raise UsageError(f"corpus {name!r} is neither a known corpus nor an existing path; {did_you_mean(name, known)}")


def hub_names() -> list[str]:
    """The corpora described in haystacks/*.toml."""
    return resources.names("haystacks")


def builtin_names() -> list[str]:
    """The corpora that have a grammar in haystacks/grammars/."""
    return sorted({f"builtin/{file.stem}" for folder in resources.folders("haystacks") for file in folder.glob("grammars/*.toml")})


def _builtin(name: str) -> Corpus:
    domain = name.removeprefix("builtin/")
    path = resources.find("haystacks", f"grammars/{domain}.toml") if name in builtin_names() else None
    if path is None:
        raise UsageError(f"corpus {name!r} is unknown; {did_you_mean(name, builtin_names())}")
    try:
        return _written(domain, path.read_bytes())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} is no valid TOML: {error}") from None


@lru_cache(maxsize=8)  # compiling a grammar takes a tenth of a second, and a process may ask for the same corpus many times
def _written(domain: str, content: bytes) -> Corpus:
    from niah.task.grammar import Grammar

    data = tomllib.loads(content.decode())
    grammar = Grammar.load(domain, data)

    @lru_cache(maxsize=2 * BLOCK)  # a sweep comes back to the same documents with every reshuffle
    def document(number: int) -> Document:
        title, text = grammar.document(number)
        return Document(id=f"{domain}-{number}", title=title, text=text)

    fingerprint = hashlib.sha256(b"grammar 2 " + content).hexdigest()[:16]
    about = f"built in: {data.get('about', 'generated text, unlimited')}"
    return Corpus(name=f"builtin/{domain}", fingerprint=fingerprint, size=None, about=about, document=document)


def _snapshot(name: str) -> Corpus:
    from niah.task import hub
    from niah.task.snapshot import find_snapshot

    snapshot = find_snapshot(name)
    if snapshot is None:
        raise hub.missing(name)
    documents = [_document(id_, title, text) for id_, title, text in snapshot.documents()]
    about = f"{snapshot.dataset} at {snapshot.revision}, {snapshot.licence}, fetched {snapshot.fetched}"
    return _listed(name, documents, about)


def _files(path: Path) -> Corpus:
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    root = path if path.is_dir() else path.parent
    documents = [document for file in files for document in _read(file, file.relative_to(root).as_posix())]
    if not documents:
        raise CorpusError(
            f"corpus {str(path)!r} holds no text: it needs {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} files that are not empty"
        )
    return _listed(path.resolve().name, documents, f"{len(files)} files from {path}")


def _listed(name: str, documents: list[Document], about: str) -> Corpus:
    digest = hashlib.sha256()
    for document in documents:
        digest.update("\x1f".join((document.id, document.title, document.text, "\x1e")).encode())
    return Corpus(name=name, fingerprint=digest.hexdigest()[:16], size=len(documents), about=about, document=documents.__getitem__)


def _document(id_: str, title: str, text: str) -> Document:
    """Line ends made the same, and a title that the text does not begin with put above it."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    title = title.strip()
    if title and text and not text.startswith(title):
        text = f"{title}\n\n{text}"
    return Document(id=id_, title=title, text=text)


def _read(file: Path, name: str) -> Iterable[Document]:
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise CorpusError(f"{file}: a corpus is read from {', '.join(SUFFIXES)} files, or a folder of them")
    try:
        rows = list(_READERS[suffix](file, name))
        for row in rows:
            row.text.encode()
    except UnicodeDecodeError as error:
        raise CorpusError(f"{file} is not UTF-8 (byte {error.start}): convert it, for example with iconv -f latin1 -t utf-8") from None
    except UnicodeEncodeError:
        raise CorpusError(f"{file} holds half of a surrogate pair, which is no text: mend its escapes") from None
    except OSError as error:
        raise CorpusError(f"{file} cannot be read: {error.strerror or error}") from None
    return [row for row in rows if row.text]


def _plain(file: Path, name: str) -> Iterator[Document]:
    yield _document(name, "", file.read_text(encoding="utf-8-sig"))


def _jsonl(file: Path, name: str) -> Iterator[Document]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row: Any = json.loads(line)
            except json.JSONDecodeError as error:
                raise CorpusError(f"{file}, line {number} is no JSON: {error.msg}") from None
            text = row if isinstance(row, str) else row.get("text") if isinstance(row, dict) else None
            if not isinstance(text, str):
                raise CorpusError(f'{file}, line {number}: expected a string, or an object with a string under "text"')
            yield _document(*_identity(row if isinstance(row, dict) else {}, f"{name}:{number}"), text)


def _parquet(file: Path, name: str) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            columns = table.schema_arrow.names
            if "text" not in columns:
                raise CorpusError(f"{file} has no column 'text'; its columns: {', '.join(columns)}")
            rows: list[dict[str, Any]] = table.read(columns=[c for c in ("id", "title", "text") if c in columns]).to_pylist()
    except pa.ArrowException as error:
        raise CorpusError(f"{file} is no readable parquet file: {str(error).splitlines()[0]}") from None
    for number, row in enumerate(rows):
        if isinstance(row["text"], str):
            yield _document(*_identity(row, f"{name}:{number}"), row["text"])


def _identity(row: dict[str, Any], otherwise: str) -> tuple[str, str]:
    id_, title = row.get("id"), row.get("title")
    return (otherwise if id_ is None else str(id_)), ("" if title is None else str(title))


_READERS: dict[str, Callable[[Path, str], Iterator[Document]]] = {".txt": _plain, ".md": _plain, ".jsonl": _jsonl, ".parquet": _parquet}
