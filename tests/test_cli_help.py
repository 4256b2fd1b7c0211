"""`niah --help` answers at once and every command explains itself."""

import json
import subprocess
import sys
from typing import Any

import pytest
import typer

from niah.cli import app

HEAVY = ("pandas", "scipy", "matplotlib", "datasets", "pyarrow", "pydantic", "httpx", "tiktoken", "numpy", "bm25s")
CHECK = """
import json, sys
from niah.cli import main
sys.argv = ["niah", *{arguments!r}]
try:
    main()
except SystemExit as stop:
    print(json.dumps([stop.code, sorted(set({heavy!r}) & set(sys.modules))]))
"""


def commands(command: Any = None, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """(words, command) of niah and everything below it."""
    command = command or typer.main.get_command(app)
    found = [(path, command)]
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        found += commands(inner, (*path, name))
    return found


EVERY = commands()
NAMES = [" ".join(("niah", *path)) for path, _ in EVERY]


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [(["--help"], ()), (["--version"], ()), (["sweep", "--help"], ("pydantic",)), (["needles", "--help"], ("pydantic",))],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(arguments: list[str], allowed: tuple[str, ...]):
    """Imports are what start-up costs; benchmarks/startup.py measures the time, which a busy machine makes useless in a test.

    Typer itself imports pydantic for commands with options.
    """
    script = CHECK.format(arguments=arguments, heavy=sorted({*HEAVY} - {*allowed}))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]


@pytest.mark.parametrize(("path", "command"), EVERY, ids=NAMES)
def test_every_command_has_help(path: tuple[str, ...], command: Any, capsys: pytest.CaptureFixture[str]):
    typer.main.get_command(app).main([*path, "--help"], prog_name="niah", standalone_mode=False)
    shown = capsys.readouterr().out
    assert " ".join(("Usage: niah", *path)) in shown
    assert command.help


@pytest.mark.parametrize(("path", "command"), EVERY, ids=NAMES)
def test_every_option_and_argument_has_help(path: tuple[str, ...], command: Any):
    silent = [parameter.name for parameter in command.params if not getattr(parameter, "help", None) and parameter.name != "help"]
    assert silent == []


@pytest.mark.parametrize("path", [path for path, _ in EVERY], ids=NAMES)
def test_help_has_a_short_form(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    typer.main.get_command(app).main([*path, "-h"], prog_name="niah", standalone_mode=False)
    assert "Usage:" in capsys.readouterr().out
