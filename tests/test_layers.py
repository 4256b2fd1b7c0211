"""Who may import whom, how long a file and a function may be: DESIGN section 2 and CONTRIBUTING, held by reading the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "niah").rglob("*.py"))
LAYERS = (
    {"cli"},
    {"run", "training"},
    {"task", "backends", "report", "config"},
    {"engines"},
    {"trial", "errors", "sentences", "resources"},
)
ALONE = {"trial", "errors", "sentences", "resources", "engines"}
"""These import nothing of niah outside of themselves."""
HEAVY = {
    "matplotlib": {"report/heatmap.py", "report/lettering.py", "report/lines.py", "report/curves.py", "report/simulation.py"},
    "httpx": {"backends/http.py"},
    "aiohttp": {"backends/http.py"},
    "datasets": {"task/hub.py"},
    "huggingface_hub": {"task/hub.py", "engines/checkpoint.py"},
    "torch": {"engines/", "training/"},
    "transformers": {"engines/", "training/"},
    "ray": {"engines/"},
}
"""Packages that only these files, or files of these folders, may import, inside functions."""
WITH_TENSORS = ("arena", "attention", "cache", "engine", "home", "instance", "kernels", "ray_instance", "ray_wire", "ray_worker")
"""Of engines/distkv/; its other modules keep books and know no tensor."""
AT_THE_TOP = {
    "httpx": {"backends/http.py"},
    "aiohttp": {"backends/http.py"},
    "numpy": {"task/deal.py", "task/measure.py", "training/", "engines/distkv/ray_wire.py"},
    "pydantic": {"config.py", "training/"},
    "torch": {"engines/infini/", "training/", *(f"engines/distkv/{name}.py" for name in WITH_TENSORS)},
    "transformers": {"engines/distkv/cache.py", "engines/distkv/engine.py"},
}
LATE = {*HEAVY, "numpy", "pandas", "scipy", "pyarrow", "tiktoken", "tokenizers", "rapidfuzz", "rustbpe", "pydantic", "bm25s"}
"""Packages that take long to import: not at the top of a module, but where that module itself is imported late."""
FILE_LINES, FUNCTION_LINES = 350, 45


def name(path: Path) -> str:
    return path.relative_to(ROOT / "niah").as_posix()


def room(path: Path) -> str:
    """The part of niah that a file belongs to: a folder, or a module beside them."""
    return path.relative_to(ROOT / "niah").parts[0].removesuffix(".py")


def within(path: Path, places: set[str]) -> bool:
    """Whether a file is one of these, or lies in one of these folders."""
    return any(name(path) == place or (place.endswith("/") and name(path).startswith(place)) for place in places)


def layer(part: str) -> int:
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


def imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """(full name of what is imported, whether that happens when the module is imported)."""
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    late = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" if node.module == "niah" else str(node.module) for alias in node.names]
        if id(node) not in typing_only:
            yield from ((each, id(node) not in late) for each in names)


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def parts_imported(path: Path) -> set[str]:
    """The parts of niah that a file imports; `niah.__version__` is no part."""
    found = {each.split(".")[1] for each, _ in imports(TREES[path]) if each.startswith("niah.")}
    return found - {"__version__"}


def test_every_file_belongs_to_a_layer():
    known = {part for parts in LAYERS for part in parts} | {"__init__", "__main__"}
    assert [name(path) for path in FILES if room(path) not in known] == []


def test_imports_go_downward_only():
    wrong: list[str] = []
    for path in FILES:
        part = room(path)
        if part in ("__init__", "__main__"):
            continue
        for other in parts_imported(path) - {part}:
            if layer(other) <= layer(part) or part in ALONE:
                wrong.append(f"{name(path)} imports niah.{other}")
    assert wrong == []


def test_heavy_packages_stay_where_they_belong():
    wrong: list[str] = []
    for path in FILES:
        for each, top in imports(TREES[path]):
            package = each.split(".")[0]
            if package in HEAVY and not within(path, HEAVY[package]):
                wrong.append(f"{name(path)} imports {package}")
            if top and package in LATE and not within(path, AT_THE_TOP.get(package, set())):
                wrong.append(f"{name(path)} imports {package} at its top")
    assert wrong == []


def test_the_rules_find_what_they_look_for():
    """The tests above would also pass if they saw nothing."""
    assert {"task", "report", "config"} <= set().union(*(parts_imported(path) for path in FILES if room(path) == "run"))
    top = dict(imports(TREES[ROOT / "niah/backends/http.py"]))
    assert top["httpx"] is True
    late = dict(imports(TREES[ROOT / "niah/task/hub.py"]))
    assert late["datasets"] is False


def test_no_drawers():
    assert [name(path) for path in FILES if path.stem in ("utils", "util", "common", "helpers", "misc")] == []


def test_files_are_short():
    long = {name(path): lines for path in FILES if (lines := len(path.read_text(encoding="utf-8").splitlines())) > FILE_LINES}
    assert long == {}


def test_functions_are_short():
    long: list[str] = []
    for path in FILES:
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long.append(f"{name(path)}: {node.name} has {lines} lines")
    assert long == []


@pytest.mark.parametrize("path", [path for path in FILES if path.stat().st_size], ids=name)
def test_every_room_says_what_it_is_for(path: Path):
    assert ast.get_docstring(TREES[path])
