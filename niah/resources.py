"""Finds the data files that come with niah: haystacks/, needles/ and configs/.

The working directory comes first, so that a user's own `needles/mine.toml` is found by its name; then the package (a
wheel carries the folders inside it, a checkout beside it).
"""

from collections.abc import Iterator
from pathlib import Path

_PACKAGE = Path(__file__).parent


def folders(kind: str) -> Iterator[Path]:
    """The existing folders in which files of one kind ("haystacks", "needles", "configs") are looked for, nearest first."""
    for root in (Path.cwd(), _PACKAGE / "data", _PACKAGE.parent):
        if (root / kind).is_dir():
            yield root / kind


def find(kind: str, name: str) -> Path | None:
    """The file `name` of a kind, or None; the extension .toml may be left out."""
    for folder in folders(kind):
        for candidate in (folder / name, folder / f"{name}.toml"):
            if candidate.is_file():
                return candidate
    return None


def names(kind: str) -> list[str]:
    """The names of all files of a kind, without .toml, sorted."""
    return sorted({path.stem for folder in folders(kind) for path in folder.glob("*.toml")})
