"""The files of a model, from a folder or from the Hugging Face hub: `open_checkpoint("PATH")`, `open_checkpoint("ORG/NAME@REVISION")`."""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from niah.engines import EngineError

_READERS = Path(__file__).parent / "weights"
_HUB_ID = re.compile(r"(?P<id>\w[\w.-]*(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")
_SMALL = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
_WEIGHTS = (("*.safetensors",), ("*.bin",))
"""Kinds of weights; where the first is there the second is not fetched."""
_BESIDE_THE_POINT = ("*/*", "consolidated*")
_READ_WHOLE, _READ_AT_THE_ENDS, _EDGE_BYTES = (".json", ".jinja", ".model"), (".safetensors", ".bin"), 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model's folder on this machine. `served` names the very weights: the hub's commit, or a fingerprint of the files."""

    folder: Path
    served: str
    hub_id: str = ""
    revision: str | None = None

    def fetch_weights(self) -> None:
        """Have the weights on this machine; the hub's cache keeps them. EngineError where the hub does not give them."""
        for kind in _WEIGHTS if self.hub_id else ():
            _snapshot(self.hub_id, self.revision, (*_SMALL, *kind))
            if any(next(self.folder.glob(pattern), None) for pattern in kind):
                return


def open_checkpoint(name: str) -> Checkpoint:
    """The model called `name`: a folder, or an id on the hub, whose config and tokenizer are fetched. EngineError when it is neither."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Checkpoint(folder=folder, served=f"{folder.resolve().name}@{_fingerprint(folder)}")
    match = _HUB_ID.fullmatch(name)
    if folder.exists() or match is None:
        raise EngineError(
            "it is no folder; give a checkpoint's folder, or an id on the hub as in ORG/NAME or ORG/NAME@REVISION", kind="checkpoint"
        )
    folder = _snapshot(match["id"], match["revision"], _SMALL)
    return Checkpoint(folder=folder, served=f"{match['id']}@{folder.name[:8]}", hub_id=match["id"], revision=match["revision"])


def bundled(reader: str) -> str:
    """The folder of a reader that comes with niah; EngineError where it was left out."""
    folder = _READERS / reader
    if not (folder / "config.json").is_file():
        raise EngineError(
            f"this installation has no bundled reader (no folder engines/weights/{reader} in the package): "
            f"train one with `niah train`, and give its folder",
            kind="checkpoint",
        )
    return str(folder)


def _snapshot(hub_id: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    import huggingface_hub
    from huggingface_hub import errors
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        return Path(
            huggingface_hub.snapshot_download(hub_id, revision=revision, allow_patterns=[*patterns], ignore_patterns=[*_BESIDE_THE_POINT])
        )
    except errors.GatedRepoError:
        why = "its owner wants to be asked first: accept the terms on its page and set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        why = "it is neither a folder here nor a model that the hub shows you (private ones need HF_TOKEN)"
    except errors.RevisionNotFoundError:
        why = f"the hub has no revision {revision!r} of it"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        why = "it is no folder here, and the hub cannot be reached (network, HF_ENDPOINT, HF_HUB_OFFLINE)"
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        why = f"the hub does not give it: {first_line(error)}"
    raise EngineError(why, kind="checkpoint")


def _fingerprint(folder: Path) -> str:
    """8 hexadecimal digits: small files as a whole, of weights the size and both ends, for a large model takes minutes to read."""
    state = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in (*_READ_WHOLE, *_READ_AT_THE_ENDS)):
        size = path.stat().st_size
        state.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            state.update(file.read(_EDGE_BYTES if path.suffix in _READ_AT_THE_ENDS else size))
            file.seek(max(file.tell(), size - _EDGE_BYTES))
            state.update(file.read())
    return state.hexdigest()[:8]


def first_line(error: BaseException, most_characters: int = 200) -> str:
    """What an exception of somebody else's says, as one line."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if len(line) <= most_characters else line[: most_characters - 1] + "…"


def quiet() -> Any:
    """transformers without its progress bars and warnings, which would run into our own output."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers
