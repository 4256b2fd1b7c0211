"""action.yml and the examples in docs/ci: their steps are run by a script, as GitHub and GitLab would, over a real sweep."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from lxml import etree

from niah.run.sides import open_side
from tests.chat_server import Answer, Asked, ChatServer, completion
from tests.run.command import PLAIN, found, here, write_config
from tests.run.warm import warm

ROOT = Path(__file__).parent.parent
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
GITHUB, GITLAB = (yaml.safe_load((ROOT / f"docs/ci/{name}.yml").read_text(encoding="utf-8")) for name in ("github", "gitlab"))
SCHEMA = etree.XMLSchema(etree.parse(str(ROOT / "tests/report/junit.xsd")))
EXPRESSION = re.compile(r"\$\{\{\s*(.+?)\s*\}\}")
COMMAND = re.compile(r"^::(?P<name>error|warning|notice) title=(?P<title>[^:,]*)::(?P<told>.*)$")
GRID = {"lengths": [300, 500], "depths": [0.0, 0.5, 1.0], "reshuffles": 20}


@dataclass
class Place:
    folder: Path
    programs: Path
    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)


@dataclass
class Ran:
    """What a run of the action's steps left."""

    code: int
    log: str
    summary: str
    outputs: dict[str, dict[str, str]]
    pip: list[str]
    out: Path

    @property
    def commands(self) -> list[dict[str, str]]:
        """The workflow commands that GitHub would obey: none between stop-commands and its end."""
        heard: list[dict[str, str]] = []
        paused = ""
        for line in map(str.strip, self.log.splitlines()):
            if paused:
                paused = "" if line == f"::{paused}::" else paused
            elif line.startswith("::stop-commands::"):
                paused = line.rpartition("::")[2]
            elif line.startswith("::"):
                told = COMMAND.match(line)
                assert told, line
                heard.append(told.groupdict())
        assert not paused
        return heard


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A repository with a config and a baseline, and a server with models that are as good and worse."""
    folder, before = tmp_path_factory.mktemp("repository"), Path.cwd()
    os.chdir(folder)

    def answer(asked: Asked) -> Answer:
        model = asked.body["model"]
        made.asked[model] += 1
        wrong = model == "worse" and made.asked[model] % 4 == 0
        return completion("\n::error title=pwned::from the model\n" if wrong else found(asked))

    try:
        with warm(tmp_path_factory.mktemp("warm")) as programs, ChatServer(answer) as server:
            made = Place(folder, programs, server.url)
            write_config(folder, name="ci", models=["server/good"], **GRID)
            assert here("sweep", "ci.toml", "--base-url", server.url, "--out", "current").returncode == 0
            assert here("baseline", "save", "current", "current.json").returncode == 0
            yield made
    finally:
        os.chdir(before)


def value(text: str, contexts: Mapping[str, Mapping[str, str]]) -> str:
    """A text with its expressions put in; only names are known here, and an action that uses more fails."""

    def put(match: re.Match[str]) -> str:
        context, _, name = match[1].partition(".")
        return contexts[context][name] if name else ""

    return EXPRESSION.sub(put, text)


def wanted(step: Mapping[str, Any], contexts: Mapping[str, Mapping[str, str]]) -> bool:
    if "if" not in step:
        return True
    inner = EXPRESSION.fullmatch(step["if"])
    assert inner
    for part in inner[1].split("&&"):
        name, operator, text = part.split()
        context, _, key = name.partition(".")
        if (contexts[context].get(key, "") == text.strip("'")) != (operator == "=="):
            return False
    return True


def bash(script: str, folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    file = folder / "step.sh"
    file.write_text(script, encoding="utf-8")
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(file)],
        cwd=folder,
        env={**os.environ, **PLAIN, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


def path_with(*folders: Path) -> str:
    return os.pathsep.join([*map(str, folders), str(Path(sys.executable).parent), os.environ["PATH"]])


def run(place: Place, tmp: Path, **given: str) -> Ran:
    """The action's steps in their order, as a runner does them. What is installed is this checkout; pip only notes what it was told."""
    inputs = {name: str(each.get("default", "")) for name, each in ACTION["inputs"].items()}
    inputs |= {name.replace("_", "-"): text for name, text in given.items()} | {"out": str(tmp / "run")}
    programs = tmp / "bin"
    programs.mkdir(parents=True)
    (programs / "pip").write_text('#!/bin/bash\nprintf "%s\\n" "$@" > "$PIP_NOTES"\n', encoding="utf-8")
    (programs / "pip").chmod(0o755)
    files = {name: tmp / name for name in ("GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    environment = {name: str(path) for name, path in files.items()}
    environment |= {"PATH": path_with(programs, place.programs), "PIP_NOTES": str(tmp / "pip")}
    contexts: dict[str, dict[str, str]] = {
        "inputs": inputs,
        "github": {"action_path": str(ROOT)},
        "runner": {"temp": str(tmp)},
        "steps": {},
    }
    outputs: dict[str, dict[str, str]] = {}
    log, code = "", 0
    for step in STEPS:
        if code or "uses" in step or not wanted(step, contexts):
            continue
        own = {name: value(text, contexts) for name, text in step.get("env", {}).items()}
        for path in files.values():
            path.touch()
        files["GITHUB_OUTPUT"].write_text("", encoding="utf-8")
        done = bash(step["run"], place.folder, {**environment, **own})
        log, code = log + done.stdout, done.returncode
        environment |= dict(line.split("=", 1) for line in files["GITHUB_ENV"].read_text(encoding="utf-8").splitlines())
        if "id" in step:
            outputs[step["id"]] = dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text(encoding="utf-8").splitlines())
            contexts["steps"] |= {f"{step['id']}.outputs.{name}": text for name, text in outputs[step["id"]].items()}
    pip = (tmp / "pip").read_text(encoding="utf-8").splitlines()
    return Ran(code, log, files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8"), outputs, pip, tmp / "run")


def test_a_simulated_regression_is_caught(place: Place, tmp_path: Path) -> None:
    ran = run(place, tmp_path, config="ci.toml", models="server/worse", base_url=place.url, baseline="current.json")
    assert ran.code == 1 and ran.outputs["gate"]["code"] == "1", ran.log
    first, *cells = ran.commands
    assert first["name"] == "error" and first["title"] == "niah%3A server/worse" and first["told"].startswith("REGRESSED: recall differs")
    assert 1 <= len(cells) <= 3 and all("tokens at depth" in cell["title"] and "recall 0." in cell["told"] for cell in cells)
    assert (
        ran.summary.startswith("**REGRESSED: ")
        and "| depth | 300 | 500 |" in ran.summary
        and re.search(r"[🟩🟨🟧🟥] 0\.\d\d \(-0\.", ran.summary)
    )
    assert "pwned" not in ran.summary and "pwned" not in "".join(map(str, ran.commands))
    root = etree.parse(str(ran.out / "gate.xml"))
    SCHEMA.assertValid(root)
    assert root.getroot()[0].get("failures") == "1"
    assert (ran.out / "report.html").stat().st_size > 10_000 and len(open_side(str(ran.out)).points) == 120
    assert ran.pip == ["install", "--disable-pip-version-check", "--quiet", str(ROOT)]


def test_an_equal_model_passes_and_stops_early(place: Place, tmp_path: Path) -> None:
    before = place.asked["same"]
    ran = run(
        place, tmp_path, config="ci.toml", models="server/same", base_url=place.url, baseline="current.json", margin="0.1",
        until_settled="true", version="0.1.0",
    )  # fmt: skip
    assert ran.code == 0, ran.log
    assert [command["name"] for command in ran.commands] == ["notice"] and "PASS: stopped after " in ran.commands[0]["told"]
    assert 80 <= place.asked["same"] - before <= 100, "one round of trials may be in flight when it is settled"
    assert ran.pip[-1] == "niah==0.1.0" and ran.outputs["key"]["key"].startswith("niah-0.1.0-")


def test_what_the_trials_cannot_tell_has_its_own_code(place: Place, tmp_path: Path) -> None:
    ran = run(place, tmp_path / "one", config="ci.toml", base_url=place.url, baseline="current.json", margin="0.001")
    assert ran.code == 3 and ran.commands[0]["name"] == "error" and ran.commands[0]["told"].startswith("INCONCLUSIVE: ")
    root = etree.parse(str(ran.out / "gate.xml"))
    SCHEMA.assertValid(root)
    assert root.getroot()[0].get("errors") == "1"


def test_without_a_baseline_the_floors_decide_and_inputs_are_no_code(place: Place, tmp_path: Path) -> None:
    """The run's folder has a name that a careless script would run, and one of two models is below the floor."""
    hostile = tmp_path / "$(touch pwned) `touch pwned` ; touch pwned"
    ran = run(place, hostile, config="ci.toml", models="server/good server/worse", base_url=place.url, min_recall="0.9", artifact="a'b")
    assert ran.code in (1, 3) and not list(tmp_path.rglob("pwned")) and not list(place.folder.rglob("pwned"))
    assert [command["told"].partition(":")[0] for command in ran.commands][:1] == ["PASS"]
    assert len(ran.commands) == 2 and ran.summary.count("| depth | 300 | 500 |") == 2 and "against the floor 0.9" in ran.summary
    assert len(etree.parse(str(ran.out / "gate.xml")).getroot()) == 2


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"models": "openai/gpt-4.1-mini", "max_cost": "1"}, "OPENAI_API_KEY"),
        ({"models": "openai/gpt-4.1-mini", "max_cost": "0.0001", "key": "1"}, "max-cost"),
    ],
)
def test_no_key_and_no_money_have_the_code_of_a_provider(
    given: dict[str, str], told: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if given.pop("key", ""):
        monkeypatch.setenv("OPENAI_API_KEY", "sk-nothing")
        given["base_url"] = place.url
    ran = run(place, tmp_path, config="ci.toml", baseline="current.json", **given)
    assert ran.code == 4 and told in ran.log and [command["title"] for command in ran.commands] == ["niah sweep"]
    assert "exit code 4" in ran.commands[0]["told"] and ran.summary == ""


def test_the_action_is_well_formed() -> None:
    """What the runner would refuse, and what would make a script of an input."""
    assert ACTION["runs"]["using"] == "composite" and {"name", "description"} <= set(ACTION)
    names = [step["id"] for step in STEPS if "id" in step]
    assert len(names) == len(set(names))
    used: set[str] = set()
    for step in STEPS:
        assert ("uses" in step) != ("run" in step) and "name" in step
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
        else:
            assert step["shell"] == "bash" and "${{" not in step["run"] and "eval" not in step["run"].split()
        texts = [*map(str, step.get("env", {}).values()), *map(str, step.get("with", {}).values()), step.get("if", "")]
        used |= {name for text in texts for name in re.findall(r"inputs\.([\w-]+)", text)}
        assert {name for text in texts for name in re.findall(r"steps\.([\w-]+)\.", text)} <= set(names)
    assert used == set(ACTION["inputs"])
    assert all(("description" in each and "default" in each) or each.get("required") for each in ACTION["inputs"].values())


def test_every_input_and_output_is_in_the_guide() -> None:
    guide = (ROOT / "docs/gate.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([^`\n]+)`", guide))
    assert {*ACTION["inputs"], *ACTION["outputs"]} <= named


def test_the_example_workflow_uses_what_there_is() -> None:
    assert not list((ROOT / ".github").rglob("*.yml")), "an example that lies there runs by itself"
    (job,) = GITHUB["jobs"].values()
    checkout, gate = job["steps"]
    assert re.fullmatch(r"actions/checkout@v\d+", checkout["uses"]) and GITHUB["permissions"] == {"contents": "read"}
    assert set(gate["with"]) <= set(ACTION["inputs"]) and {name for name, each in ACTION["inputs"].items() if each.get("required")} <= set(
        gate["with"]
    )
    assert all(EXPRESSION.fullmatch(text) and "secrets." in text for text in gate["env"].values())


def test_the_example_for_gitlab_runs(place: Place, tmp_path: Path) -> None:
    job = GITLAB["needles"]
    prices = tmp_path / "prices.toml"
    prices.write_text('[models."server/worse"]\nprice = {input = 0, output = 0}\n', encoding="utf-8")
    environment = {
        **job["variables"],
        "CONFIG": "gitlab.toml",
        "MODEL": "server/worse",
        "BASELINE": "current.json",
        "NIAH_CACHE": str(tmp_path / "cache"),
        "NIAH_MODELS": str(prices),
        "PATH": path_with(place.programs),
    }
    write_config(place.folder, name="gitlab", **GRID, base_url=place.url)
    assert any("niah" in line and "pip install" in line for line in job["before_script"])
    done = bash("\n".join(job["script"]), place.folder, environment)
    assert done.returncode == 1 and "REGRESSED: " in done.stdout, done.stdout
    SCHEMA.assertValid(etree.parse(str(place.folder / job["artifacts"]["reports"]["junit"])))
    assert 3 in job["allow_failure"]["exit_codes"] and job["artifacts"]["when"] == "always"
