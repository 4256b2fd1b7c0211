"""The packaged facts of models, and the user's own file: none by default, and one that a test writes."""

from pathlib import Path

import pytest

from niah.backends import models

FILE = Path(models.__file__).with_name("models.json")


@pytest.fixture(autouse=True)
def no_file_of_the_tester(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("XDG_CONFIG_HOME", "HOME", "APPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "config"))


@pytest.fixture
def override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        monkeypatch.setenv("NIAH_MODELS", str(path))
        models._read_overrides.cache_clear()
        return path

    return write
