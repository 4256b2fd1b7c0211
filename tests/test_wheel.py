"""The wheel carries everything and works from any directory. `pytest tests/test_wheel.py`"""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.run.command import uncovered

ROOT = Path(__file__).parents[1]
WEIGHTS = "niah/engines/weights"
READERS = {"full": "hf/bundled", "infini": "infini/bundled"}
MOST_BYTES = 12_000_000
"""Of one bundled reader, all of its files together."""
READER_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout; where it has no weights, a copy of what a wheel is made of, with small random readers in their place."""
    if all((ROOT / WEIGHTS / reader / "config.json").is_file() for reader in READERS):
        return ROOT
    folder = tmp_path_factory.mktemp("source")
    for name in ("niah", "haystacks", "needles", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    small_readers(folder / WEIGHTS)
    return folder


def small_readers(folder: Path) -> None:
    """What the exporters write, of untrained models."""
    import torch

    from niah.engines.infini.config import InfiniConfig
    from niah.engines.infini.model import InfiniModel, ModelConfig
    from niah.training.episodes import END
    from niah.training.export import export_full, export_infini
    from niah.training.llama import Llama, LlamaShape

    torch.manual_seed(0)
    shape = LlamaShape(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=32)
    export_full(Llama(shape).state_dict(), shape, folder / "full")
    layer = InfiniConfig.reader(d_model=32, heads=2, head_dim=16, segment_tokens=64)
    config = ModelConfig(vocabulary=8192, d_model=32, mlp=32, layers=(layer,), end_tokens=(END,))
    export_infini(InfiniModel(config).state_dict(), config, folder / "infini")


@pytest.fixture(scope="module")
def installed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built and unpacked where no checkout is near."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        str(source),
    ]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, cwd: Path, *words: str, codes: tuple[int, ...] = (0,)) -> str:
    environment = {**uncovered(), "PYTHONPATH": str(installed), "NIAH_CACHE": str(cwd / "cache"), "HF_HUB_OFFLINE": "1"}
    # -P keeps the editable install of the checkout, if there is one, behind the wheel
    program = f"import sys; sys.path.insert(0, {str(installed)!r}); from niah.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in codes, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_sweeps_from_any_directory(installed: Path, tmp_path: Path) -> None:
    """Corpora, needles, configs and the tokenizer are found inside the package."""
    words = ("--model", "baseline/bm25", "--lengths", "500", "--depths", "0,1", "--reshuffles", "4", "--out", "run")
    run(installed, tmp_path, "sweep", *words)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["baseline/bm25"]["trials"] == 8
    run(installed, tmp_path, "report", "run", "--html")
    assert b"application/octet-stream" in (tmp_path / "run" / "report.html").read_bytes()
    assert "30 needles, comes with niah" in run(installed, tmp_path, "needles", "list")


def test_the_bundled_readers_answer_from_any_directory(installed: Path, tmp_path: Path) -> None:
    """One trial each, of weights that the wheel brought: whatever they answer, they were asked and are recorded under their folder's name."""
    (tmp_path / "one.toml").write_text(
        f'models = {json.dumps([*READERS.values()])}\ncorpora = "builtin/medical"\nlengths = ["1k"]\ndepths = [0.5]\nreshuffles = 1\n'
        "[sampling]\nmax_output_tokens = 65\n",
        encoding="utf-8",
    )
    told = run(installed, tmp_path, "sweep", "one.toml", "--out", "run", codes=(0, 3))  # 3: an untrained reader may not end its answer
    lines = [json.loads(line) for line in (tmp_path / "run" / "trials.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["model"]: bool(line["reply"]) for line in lines} == dict.fromkeys(READERS.values(), True), told
    served = {line["model"]: line["reply"]["model"].split("@")[0] for line in lines}
    assert served == {model: reader for reader, model in READERS.items()}
    assert all(900 < line["reply"]["usage"]["input"] <= 1010 for line in lines)


def test_a_bundled_reader_is_small_enough_to_ship(installed: Path) -> None:
    for reader in READERS:
        folder = installed / WEIGHTS / reader
        assert set(READER_FILES) <= {path.name for path in folder.iterdir()}
        assert sum(path.stat().st_size for path in folder.iterdir()) <= MOST_BYTES, reader


@pytest.mark.parametrize("reader", READERS)
def test_the_weights_of_this_checkout_are_whole(reader: str) -> None:
    folder = ROOT / WEIGHTS / reader
    if not folder.exists():
        pytest.skip(f"no bundled reader in this checkout ({WEIGHTS}/{reader})")
    assert sorted(path.name for path in folder.iterdir() if path.name not in READER_FILES) in ([], ["generation_config.json"])
    assert 2_000_000 < sum(path.stat().st_size for path in folder.iterdir()) <= MOST_BYTES


def test_the_wheel_is_small_and_holds_no_tests(installed: Path) -> None:
    files = [path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()]
    assert "niah/data/haystacks/grammars/legal.toml" in files
    assert "niah/data/needles/default.toml" in files
    assert "niah/data/configs/quickstart.toml" in files
    assert "niah/py.typed" in files
    assert not [name for name in files if name.startswith(("tests", "results", "benchmarks"))]
    # What Python has compiled since is no part of the wheel, and readers have a limit of their own.
    shipped = [name for name in files if "__pycache__" not in name and not name.startswith(WEIGHTS)]
    assert sum((installed / name).stat().st_size for name in shipped) < 4_000_000
