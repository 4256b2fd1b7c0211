"""Heatmaps that this session drew already are copied: equal results give equal files, which tests/report/test_heatmap.py holds.

Whatever is new is drawn as ever, so no state of a sweep escapes the drawing.
"""

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any
from unittest import mock

from niah.report import heatmap

_plain = heatmap.draw


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
    paths = _plain(panels, path_stem, **told)
    kept.parent.mkdir(exist_ok=True)
    written = kept.with_suffix(f".{os.getpid()}")
    written.write_bytes(pickle.dumps({path.name.removeprefix(path_stem.name): path.read_bytes() for path in paths}))
    written.replace(kept)
    return paths
