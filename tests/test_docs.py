"""The docs say what the program does: everything is named in docs/reference.md, every example works, every link leads somewhere."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import typer

from niah import errors, resources
from niah.backends import TABLE
from niah.backends.remote import PROVIDERS
from niah.cli import app
from niah.config import Experiment, SamplingTable, load_experiment
from niah.errors import NiahError
from niah.report.export import COLUMNS as EXPORTED
from niah.report.spending import Spending
from niah.report.stats import Summary
from niah.report.write import COLUMNS
from niah.run.plan import gather
from niah.run.sweep import description
from niah.task.corpus import open_corpus
from niah.task.needles import check, load_needles, set_names
from niah.task.prompt import TEMPLATES, load_template
from niah.task.score import SCORERS
from niah.task.sources import Source, load_sources
from niah.trial import Fingerprints, Placement, Record, Reply, Sampling, Score, Trial, Usage

ROOT = Path(__file__).parent.parent
PAGES = [*(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")), *sorted((ROOT / "docs").rglob("*.md"))]
REFERENCE = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)(?: +(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(niah [^`\n]+)`")
HARMLESS = {("plan",), ("prompt",), ("models",), ("haystack", "list"), ("haystack", "show"), ("needles", "list"), ("needles", "check"), ()}
"""Commands that the tests run: they ask no model and fetch nothing."""


def page(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def section(title: str) -> str:
    """The text of the reference under a heading, up to the next heading of its level or a higher one."""
    start = re.search(rf"^(#+) {re.escape(title)}$", REFERENCE, re.MULTILINE)
    assert start, f"docs/reference.md has no section {title!r}"
    rest = REFERENCE[start.end() :]
    end = re.search(rf"^#{{1,{len(start[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def named(text: str) -> set[str]:
    """What stands in backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


def rows(text: str) -> list[list[str]]:
    """Cells of the rows of tables that begin with something in backticks."""
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("| `")]


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    command = command or typer.main.get_command(app)
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def options(command: Any) -> set[str]:
    return {word for parameter in command.params for word in parameter.opts if word.startswith("--")}


COMMANDS = dict(commands())


@pytest.mark.parametrize("path", [path for path, command in COMMANDS.items() if not hasattr(command, "commands") or not path], ids=" ".join)
def test_every_command_and_option_is_in_the_reference(path: tuple[str, ...]):
    text = section(" ".join(("niah", *path)))
    own = {row[0].split(",")[0].strip("`") for row in rows(text)}
    shared = named(section("niah sweep")) if "niah sweep" in text else set[str]()
    assert options(COMMANDS[path]) - {"--help"} <= named(text) | shared
    assert own <= options(COMMANDS[path]) | {"--help"}


def test_every_config_key_is_in_the_reference_with_its_default():
    table = {row[0].strip("`"): row[1] for row in rows(section("Config files"))}
    for key, info in {**Experiment.model_fields, **SamplingTable.model_fields}.items():
        if key == "sampling":
            continue
        told = table[key]
        if info.is_required():
            assert told == "required", key
        elif told.startswith("`"):
            value, default = tomllib.loads(f"x = {told.strip('`')}")["x"], info.default
            assert (list(default) if isinstance(default, tuple) else default) in (value, [value]), key
        else:
            assert info.default is None or key == "name", key


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("Scorers", [*SCORERS, "judge"]),
        ("Needle sets", [name for name in set_names() if name in resources.names("needles") or name in ("words", "numbers", "uuids")]),
        ("Templates", TEMPLATES),
        ("Config files", [path.stem for path in (ROOT / "configs").glob("*.toml")]),
        ("Tokenizers", ["niah-8k", *tiktoken.list_encoding_names()]),
        ("Corpora", [path.stem for path in (ROOT / "haystacks").glob("*.toml")]),
        ("Corpora", [f"builtin/{path.stem}" for path in (ROOT / "haystacks/grammars").glob("*.toml")]),
        (
            "trials.jsonl",
            [*(f"trial.{each.name}" for each in fields(Trial) if each.name != "_key"), *(f"reply.{f.name}" for f in fields(Reply))],
        ),
        ("trials.jsonl", [each.name for each in fields(Record)] + ["key"]),
        ("trials.jsonl", [each.name for kind in (Placement, Usage, Score, Sampling, Fingerprints) for each in fields(kind)]),
        ("cells.csv", COLUMNS),
        ("Exported tables", EXPORTED),
        ("summary.json", [each.name for kind in (Summary, Spending) for each in fields(kind)] + ["cues", "cost", "total", "lost_dollars"]),
    ],
)
def test_names_are_in_the_reference(title: str, names: Any):
    text = section(title)
    words = named(text)
    assert set(names) - words == set()


def test_every_backend_is_in_the_reference():
    told = {word.split("/")[0] for word in named(section("Models")) if "/" in word and not word.startswith("POST")}
    assert set(TABLE) <= told


def test_every_provider_and_its_variables_are_in_the_docs():
    guide = {row[0].strip("`/"): row for row in rows((ROOT / "docs/models.md").read_text(encoding="utf-8")) if row[0].endswith("/`")}
    table = {row[0].strip("`").split("/")[0]: row for row in rows(section("Models")) if "/" in row[0]}
    variables = named(section("Environment variables"))
    assert set(guide) == set(PROVIDERS)
    for name, provider in PROVIDERS.items():
        needed = {*provider.keys, provider.base_url_variable} - {""}
        assert needed <= variables
        if name != "bedrock-invoke":  # "the same" as the row above it
            assert needed <= named(" ".join(guide[name])), name
            assert needed <= named(" ".join(table[name])), name


def test_run_json_is_in_the_reference():
    experiment = load_experiment("quickstart", {})
    made = description(experiment, gather(experiment), {})
    words = named(section("run.json"))
    assert {*made, "created", "finished", *made["fingerprints"], *made["versions"]} <= words


def test_every_exit_code_is_in_the_reference_and_the_readme():
    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, NiahError)} | {0, 1, 130}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for text in (section("Exit codes"), readme[readme.index("## Exit codes") :]):
        told = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
        assert told == codes


def test_every_kind_of_failure_is_in_the_reference():
    sources = [path.read_text(encoding="utf-8") for folder in ("backends", "run") for path in (ROOT / "niah" / folder).glob("*.py")]
    raised = {kind for source in sources for kind in re.findall(r'kind="(\w+)"', source)}
    own = {kind.kind for kind in (errors.ContextOverflow, errors.BadRequest, errors.BadResponse)}
    assert raised
    assert raised | own <= named(section("Models"))


def test_every_environment_variable_is_in_the_reference():
    read = re.compile(r"""environ(?:\.get\(|\[)["'](\w+)["']""")
    variables = {name for path in (ROOT / "niah").rglob("*.py") for name in read.findall(path.read_text(encoding="utf-8"))}
    assert variables
    assert variables <= named(section("Environment variables"))


def test_keys_of_hub_sources_are_in_the_guide():
    words = named((ROOT / "docs/own-corpus.md").read_text(encoding="utf-8"))
    assert {each.name for each in fields(Source)} <= words


def shell_lines() -> list[tuple[str, str]]:
    """(page, line) of every niah command in a block of shell."""
    found: list[tuple[str, str]] = []
    for path in PAGES:
        for language, _, block in FENCE.findall(path.read_text(encoding="utf-8")):
            if language in ("sh", "bash", "shell", "console"):
                lines = (line.removeprefix("$ ").strip() for line in block.splitlines())
                found += [(page(path), line) for line in lines if line.startswith("niah")]
    return found


def split(line: str) -> tuple[tuple[str, ...], Any, list[str]]:
    """The command that a line means, as words and as an object, and its arguments."""
    arguments = shlex.split(line, comments=True)[1:]
    path: tuple[str, ...] = ()
    while arguments and (*path, arguments[0]) in COMMANDS:
        path = (*path, arguments.pop(0))
    return path, COMMANDS[path], arguments


@pytest.mark.parametrize(("where", "line"), sorted(set(shell_lines())))
def test_commands_in_the_docs_parse(where: str, line: str):
    path, command, arguments = split(line)
    if arguments != ["--help"]:
        command.make_context(" ".join(path), arguments)


def test_commands_within_sentences_exist():
    wrong: list[str] = []
    for path in PAGES:
        for line in INLINE.findall(path.read_text(encoding="utf-8")):
            _, command, arguments = split(line.replace("...", ""))
            unknown = {argument.split("=")[0] for argument in arguments if argument.startswith("--")} - options(command) - {"--help"}
            if unknown or (hasattr(command, "commands") and arguments and not arguments[0].startswith("-")):
                wrong.append(f"{page(path)}: {line}")
    assert wrong == []


def examples() -> list[tuple[str, str, str]]:
    """(page, file name, content) of every example file: blocks whose first line names the file behind the language."""
    return [(page(path), name, block) for path in PAGES for _, name, block in FENCE.findall(path.read_text(encoding="utf-8")) if name]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the guides assume it: their example files, and a folder of contracts."""
    folder = tmp_path_factory.mktemp("docs")
    for _, name, content in examples():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    (folder / "contracts").mkdir()
    legal = open_corpus("builtin/legal")
    for number in range(12):
        (folder / "contracts" / f"{number}.md").write_text(legal.document(number).text, encoding="utf-8")
    return folder


@pytest.fixture
def at_work(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("NIAH_CACHE", str(tmp_path))
    return workplace


def runnable() -> list[str]:
    lines = {line for _, line in shell_lines() if split(line)[0] in HARMLESS}
    return sorted(lines)


@pytest.mark.parametrize("line", runnable())
def test_harmless_commands_in_the_docs_work(line: str, at_work: Path, capsys: pytest.CaptureFixture[str]):
    path, _, arguments = split(line)
    assert typer.main.get_command(app).main([*path, *arguments], prog_name="niah", standalone_mode=False) in (0, None)
    assert capsys.readouterr().out


def test_every_toml_block_has_a_name():
    blocks = ((page(path), fence) for path in PAGES for fence in FENCE.findall(path.read_text(encoding="utf-8")))
    nameless = [where for where, (language, name, _) in blocks if language == "toml" and not name]
    assert nameless == []


@pytest.mark.parametrize(("where", "name"), [example[:2] for example in examples()])
def test_example_files_load(where: str, name: str, at_work: Path):
    if Path(name).suffix != ".toml":
        assert open_corpus(name).size
        return
    data = tomllib.loads(Path(name).read_text(encoding="utf-8"))
    if "needle" in data:
        assert list(check(load_needles(name))) == []
    elif "grammars" in name:
        corpus = open_corpus(f"builtin/{Path(name).stem}")
        assert all(corpus.document(number).text for number in range(50))
    elif "source" in data:
        assert load_sources(Path(name).stem)
    elif "user" in data:
        assert load_template(name).user
    else:
        assert load_experiment(name, {}).name == Path(name).stem


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of headings."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=page)
def test_links_lead_somewhere(path: Path):
    dead: list[str] = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", path.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file) if file else path
        if not there.exists() or (anchor and anchor not in anchors(there.read_text(encoding="utf-8"))):
            dead.append(target)
    assert dead == []


def kept_files() -> list[Path]:
    """The text files that git keeps or would keep."""
    listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout")
    files = (ROOT / name for name in listed.stdout.split("\0") if name)
    return [file for file in files if file.is_file() and file != Path(__file__) and b"\0" not in file.read_bytes()[:8192]]


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("paths of one machine", r"(?<![\w./~}\-])/(?:work|root|tmp|home)/"),
        ("addresses of package registries", r"https?://(?:[\w.-]+\.)?(?:pypi\.org|pythonhosted\.org|npmjs\.\w+|anaconda\.org|crates\.io)"),
    ],
)
def test_files_are_free_of(what: str, pattern: str):
    found: list[str] = []
    for file in kept_files():
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if re.search(pattern, line):
                found.append(f"{page(file)}:{number}")
    assert found == []


def test_the_two_commands_stand_on_the_first_screen():
    first = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:20]
    assert any(line.startswith("make sweep") for line in first)
    assert any(line.startswith("make test") for line in first)
