"""The wheel carries everything and works from any directory. `pytest tests/test_wheel.py`"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built and unpacked where no checkout is near."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, cwd: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "NIAH_CACHE": str(cwd / "cache")}
    # -P keeps the editable install of the checkout, if there is one, behind the wheel
    program = f"import sys; sys.path.insert(0, {str(installed)!r}); from niah.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_sweeps_from_any_directory(installed: Path, tmp_path: Path) -> None:
    """Corpora, needles, configs and the tokenizer are found inside the package."""
    run(installed, tmp_path, "sweep", "--lengths", "500", "--depths", "0,1", "--reshuffles", "4", "--out", "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["baseline/bm25"]["trials"] == 8
    assert "30 needles, comes with niah" in run(installed, tmp_path, "needles", "list")


def test_the_wheel_is_small_and_holds_no_tests(installed: Path) -> None:
    files = [path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()]
    assert "niah/data/haystacks/grammars/legal.toml" in files
    assert "niah/data/needles/default.toml" in files
    assert "niah/data/configs/quickstart.toml" in files
    assert "niah/py.typed" in files
    assert not [name for name in files if name.startswith(("tests", "results", "benchmarks"))]
    assert sum((installed / name).stat().st_size for name in files) < 4_000_000
