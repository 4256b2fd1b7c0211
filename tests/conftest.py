"""What all tests share: no network keys, no proxies, caches and working directory in temporary folders."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# One thread a process, set before torch is imported: beside other workers a second one spends several times as much waiting as working.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent
_FOREIGN = ("NIAH_", "OPENAI_", "ANTHROPIC_", "GEMINI_", "GOOGLE_", "AZURE_", "AWS_", "OPENROUTER_", "HF_", "HUGGING")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ssl_cert_file")


@pytest.fixture(scope="session", autouse=True)
def clean_environment() -> Iterator[Path]:
    """No keys or proxies of whoever runs the tests; NIAH_CACHE and HF_HOME are folders of this session. Subprocesses inherit it."""
    kept = dict(os.environ)
    for name in kept:
        if name.startswith(_FOREIGN) or name.lower() in _PROXIES:
            del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="niah-tests-", ignore_cleanup_errors=True) as folder:
        os.environ |= {
            "NIAH_TESTS_FOLDER": folder,
            "NIAH_CACHE": f"{folder}/cache",
            "HF_HOME": f"{folder}/hf",
            "XDG_CONFIG_HOME": f"{folder}/config",
        }
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH", "")]))
        yield Path(folder)
    os.environ.clear()
    os.environ.update(kept)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    return place
