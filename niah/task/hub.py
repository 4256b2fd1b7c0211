"""Text from the Hugging Face hub: a source is streamed once and frozen into a snapshot; sweeps read only snapshots.

The sources of a corpus stand in haystacks/NAME.toml and are tried in order. Text of a source that fails in the middle is
thrown away: a snapshot never mixes sources. `datasets` is imported only when text is fetched.
"""

import gc
import importlib
import logging
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from niah.errors import CorpusError
from niah.task.snapshot import Row, Snapshot, cache_folder, find_snapshot, freeze
from niah.task.sources import Source, load_sources

__all__ = ["Row", "Snapshot", "Source", "cache_folder", "find_snapshot", "load_sources", "missing", "prepare"]

TRIES = 3
"""How many requests in a row may fail before a source is given up; the waits between them are 1 and 2 seconds."""


def missing(name: str) -> CorpusError:
    """The error of a sweep that finds no snapshot."""
    domain = load_sources(name)[0].domain
    return CorpusError(
        f"corpus {name!r} is not on this machine yet.\n"
        f"Fetch it once with `niah haystack prepare {name} --tokens 2M`, or use builtin/{domain}, which needs no network."
    )


def prepare(name: str, *, characters_wanted: int, folder: Path | None = None, progress: Callable[[int], None] | None = None) -> Snapshot:
    """Stream a corpus from the first source that works and freeze it; `progress` gets the characters collected so far.

    `folder` replaces the cache folder. CorpusError: every source failed, or the snapshot cannot be written.
    """
    sources = load_sources(name)
    failures: list[str] = []
    tries = TRIES
    for source in sources:
        try:
            rows, commit = _collect(source, characters_wanted, progress or (lambda _: None), tries)
        except Exception as error:
            failures.append(f"{source.dataset}: {_brief(error)}")
            # All sources stand on one hub: one that is silent is not given the same long chance again.
            tries = 1 if isinstance(error, _SilentHubError) else TRIES
        else:
            notes = [f"{failure}; {source.dataset} was taken instead" for failure in failures]
            characters = sum(len(text) for _, _, text in rows)
            if characters < characters_wanted:
                notes.append(f"{source.dataset} ended after {characters:,} characters, {characters_wanted:,} were wanted")
            return freeze(rows, _provenance(name, source, commit, notes), folder)
        finally:
            gc.collect()  # after the exception is gone, which kept the reader alive: see _stream
    raise CorpusError(
        f"corpus {name!r} could not be fetched from the hub: {'; '.join(failures)}.\n"
        f"Check the network (HF_ENDPOINT, proxy) and run `niah haystack prepare {name}` again, "
        f"or use builtin/{sources[0].domain}, which needs none."
    )


def _provenance(name: str, source: Source, commit: str, notes: list[str]) -> dict[str, object]:
    return {
        "name": name,
        "dataset": source.dataset,
        "config": source.config,
        "revision": commit,
        "asked_revision": source.revision,
        "split": source.split,
        "licence": source.licence,
        "url": source.url,
        "notes": notes,
    }


def _collect(source: Source, characters_wanted: int, progress: Callable[[int], None], tries: int) -> tuple[list[Row], str]:
    """The documents of a source up to the wanted number of characters, and the commit that they come from."""
    documents: list[Row] = []
    ids: set[str] = set()
    characters = 0
    progress(0)
    with tempfile.TemporaryDirectory(prefix="niah-hub-") as scratch, _patience(tries):
        commit = _commit(source, tries)
        rows = _stream(source, commit, scratch)
        try:
            for number, row in enumerate(rows):
                text = "\n\n".join(part for column in source.text if (part := _as_text(row[column])))
                if not text:
                    continue
                id_ = _as_text(row[source.id]) if source.id else ""
                id_ = f"{id_}#{number}" if id_ in ids else id_ or str(number)
                ids.add(id_)
                documents.append((id_, _as_text(row[source.title]) if source.title else "", text))
                characters += len(text)
                progress(characters)
                if characters >= characters_wanted:
                    break
        finally:
            rows.close()
    if not documents:
        raise ValueError("it holds no text")
    return documents, commit


def _commit(source: Source, tries: int) -> str:
    """The commit that the source's revision stands for now. Asking for it first tells a silent hub from a bad data set within seconds."""
    import huggingface_hub

    attempt = 0
    while True:
        attempt += 1
        try:
            return huggingface_hub.HfApi().dataset_info(source.dataset, revision=source.revision, timeout=6).sha or source.revision
        except Exception as error:
            status = _status(error)
            refused = status < 500 if status else isinstance(error, OSError)  # OSError: _GaveUpError and offline mode
            if isinstance(error, _GaveUpError):
                raise _SilentHubError(str(error)) from error
            if refused or attempt >= tries:
                raise
            time.sleep(attempt)


def _stream(source: Source, commit: str, scratch: str) -> Generator[Mapping[str, Any]]:
    """The rows of a source, with the wanted columns only."""
    from datasets import load_dataset

    # A folder of that name in the working directory would win over the hub; the long form is unknown to older versions.
    path = f"hf://datasets/{source.dataset}" if Path(source.dataset).exists() else source.dataset
    where: dict[str, Any] = {"path": path, "name": source.config, "revision": commit}
    if source.data_files:
        builder = "json" if ".json" in source.data_files else "parquet"
        where = {"path": builder, "data_files": f"hf://datasets/{source.dataset}@{commit}/{source.data_files}"}
    # A cache folder of its own, because datasets falls back to whatever version an earlier program left in the usual one.
    where |= {"split": source.split, "streaming": True, "cache_dir": scratch}
    columns = list(dict.fromkeys([*source.text, *(column for column in (source.id, source.title) if column)]))
    dataset: Any = load_dataset(**where)
    if narrow := _narrow(dataset, columns):
        dataset = load_dataset(**where, **narrow)
    rows: Any = iter(dataset.select_columns(columns))
    try:
        yield from rows
    finally:
        # A parquet stream that is left before its end and still alive when Python ends aborts the process (exit status 134).
        rows.close()
        del rows, dataset
        gc.collect()


def _narrow(dataset: Any, columns: list[str]) -> dict[str, Any]:
    """Options with which a data set is opened again, so that columns that nobody asked for cannot break it.

    Types guessed from the first rows fail on later ones (a date "circa 1900"), and other shards may have other types.
    """
    import datasets

    known = list(dataset.features or columns)
    if lacking := [column for column in columns if column not in known]:
        raise ValueError(f"it has no column {lacking[0]!r}, only {', '.join(known)}")
    if dataset.info.builder_name == "parquet":
        return {"columns": columns}
    if dataset.info.builder_name == "json" and dataset.features and hasattr(datasets, "Json"):
        kinds = {column: datasets.Value("string") if column in columns else datasets.Json() for column in known}
        return {"features": datasets.Features(kinds)}
    return {}


class _GaveUpError(ConnectionError):
    """The hub failed too often in a row. No library's retry loop catches it."""


class _SilentHubError(_GaveUpError):
    """Not even the first request of a source was answered."""


@contextmanager
def _patience(tries: int) -> Generator[None]:
    """Make datasets and huggingface_hub silent and quick to fail.

    Left alone they retry in three nested loops, for up to half an hour a file. Here `tries` failing requests in a row end them all.
    """
    import datasets
    import huggingface_hub
    from datasets import config

    settings = {
        **dict.fromkeys(("STREAMING_READ_MAX_RETRIES", "STREAMING_OPEN_MAX_RETRIES"), tries),
        **dict.fromkeys(("STREAMING_READ_RETRY_INTERVAL", "STREAMING_OPEN_RETRY_INTERVAL"), 1),
        **dict.fromkeys(("STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL", "STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL"), 1),
    }
    failures = [0]
    with ExitStack() as after, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in settings.items():
            after.callback(setattr, config, name, getattr(config, name, value))
            setattr(config, name, value)
        for logger in (logging.getLogger("datasets"), logging.getLogger("huggingface_hub")):
            after.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL + 1)
        if not datasets.utils.are_progress_bars_disabled():
            after.callback(datasets.enable_progress_bars)
            datasets.disable_progress_bars()
        if not huggingface_hub.utils.are_progress_bars_disabled():
            after.callback(huggingface_hub.utils.enable_progress_bars)
            huggingface_hub.utils.disable_progress_bars()
        if hasattr(huggingface_hub, "set_client_factory"):  # since huggingface_hub 1; before it the libraries wait as they like
            http: Any = importlib.import_module("huggingface_hub.utils._http")
            after.callback(huggingface_hub.set_client_factory, http.default_client_factory)
            huggingface_hub.set_client_factory(lambda: _counting(http.default_client_factory(), failures, tries))
        yield


def _counting(client: Any, failures: list[int], tries: int) -> Any:
    """An HTTP client that raises _GaveUpError after `tries` failures in a row; `failures[0]` is shared with its successors."""
    send = client.send

    def counted(request: Any, **options: Any) -> Any:
        try:
            response = send(request, **options)
        except OSError:
            raise  # offline mode: no failure of the hub
        except Exception as error:
            failures[0] += 1
            if failures[0] >= tries:
                raise _GaveUpError(f"the connection to the hub fails ({type(error).__name__}: {error})") from error
            raise
        if response.status_code == 429:  # the libraries would wait in silence for as long as it says, which is minutes
            raise _GaveUpError("the hub allows no more requests for now (429)")
        failures[0] = failures[0] + 1 if response.status_code >= 500 else 0
        if failures[0] >= tries:
            raise _GaveUpError(f"the hub answers with status {response.status_code}")
        return response

    client.send = counted
    return client


def _brief(error: Exception) -> str:
    """What went wrong, in part of a line, without addresses (they may be signed) and tokens."""
    status = _status(error)
    name = type(error).__name__
    if name == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE is set"
    if name == "GatedRepoError" or status == 403:
        return f"it needs a login and the owner's consent ({status})"
    if status in (401, 404):
        return f"no such data set, revision or file, or not without a login ({status})"
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = re.sub(r"\S*://\S+|Bearer \S+|\bhf_\w+", "...", first).rstrip(".")
    if name.startswith("Arrow"):
        text = f"a file is unreadable ({name}: {text})"
    elif name == "KeyError":
        text = f"its rows have no {text}"
    elif not isinstance(error, _GaveUpError) and name not in ("ValueError", "DatasetNotFoundError"):
        text = f"{name}: {text}"
    return text if len(text) <= 140 else f"{text[:137]}..."


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _as_text(value: object) -> str:
    return "" if value is None else str(value).strip()
