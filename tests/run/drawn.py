"""Heatmaps that this session drew already are copied: equal results give equal files, which tests/report/test_heatmap.py holds.

Whatever is new is drawn as ever, so no state of a sweep escapes the drawing; but not twice: beside another kind of file the PNG is a blank.
"""

import base64
import hashlib
import os
import pickle
from pathlib import Path
from typing import Any
from unittest import mock

from niah.report import heatmap

_plain = heatmap.draw
_KINDS = ("png", "svg")  # as of `draw`
_BLANK = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTLuWwAAAABJRU5ErkJggg==")


def once() -> "mock._patch[Any]":
    """A context (or, by `start`, for good) in which nothing is drawn twice; processes of one session share what they drew."""
    return mock.patch.object(heatmap, "draw", _draw)


def _draw(panels: Any, path_stem: Path, **told: Any) -> list[Path]:
    name = hashlib.sha256(repr((panels, told)).encode("utf-8", "backslashreplace")).hexdigest()
    kept = Path(os.environ["NIAH_TESTS_FOLDER"]) / "drawn" / name
    if kept.exists():
        files: dict[str, bytes] = pickle.loads(kept.read_bytes())
        paths = [path_stem.with_name(path_stem.name + ending) for ending in files]
        for path, content in zip(paths, files.values(), strict=True):
            path.write_bytes(content)
        return paths
    kinds = told.pop("kinds", _KINDS)
    others = [kind for kind in kinds if kind != "png"]
    if others and "png" in kinds:
        path_stem.with_name(f"{path_stem.name}.png").write_bytes(_BLANK)
    drawn = _plain(panels, path_stem, **told, kinds=others or kinds)
    paths = [path_stem.with_name(f"{path_stem.name}.{kind}") for kind in kinds]
    assert {*drawn} <= {*paths}
    kept.parent.mkdir(exist_ok=True)
    written = kept.with_suffix(f".{os.getpid()}")
    written.write_bytes(pickle.dumps({path.name.removeprefix(path_stem.name): path.read_bytes() for path in paths}))
    written.replace(kept)
    return paths
