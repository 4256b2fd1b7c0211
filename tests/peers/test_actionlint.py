"""action.yml and the examples in docs/ci under the checkers of others: actionlint, shellcheck, and the published schemas.

actionlint reads workflows only, so the action's steps are given to it as a job of a workflow that takes the action's inputs.
"""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TOOLS = Path(os.environ.get("NIAH_ACTIONLINT") or ROOT / ".venv-actionlint")
ABSENT = f"no actionlint: `make peers` makes its environment, or NIAH_ACTIONLINT names it ({TOOLS / 'installed'} is not there)"

pytestmark = [pytest.mark.peers, pytest.mark.skipif(not (TOOLS / "installed").is_file(), reason=ABSENT), pytest.mark.timeout(300)]

ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
PROGRAM = """
const {runLint} = require(process.argv[2]);
let text = "";
process.stdin.on("data", (part) => (text += part)).on("end", () =>
  runLint(text, "checked.yml").then((found) => console.log(JSON.stringify(found.filter((one) => one.message)))));
"""


def actionlint(text: str) -> str:
    """What actionlint finds, as JSON. The program is a file: in `node -e` its Go would use the real files and wait for them forever."""
    module = TOOLS / "package" / "build" / "run-lint.js"
    with tempfile.NamedTemporaryFile("w", suffix=".cjs", encoding="utf-8") as program:
        program.write(PROGRAM)
        program.flush()
        done = subprocess.run(["node", program.name, str(module)], input=text, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip()


def as_workflow(steps: list[dict[str, Any]]) -> str:
    inputs = {
        name: {"type": "string", "default": str(each.get("default", "")), "description": each["description"]}
        for name, each in ACTION["inputs"].items()
    }
    outputs = {name: each["value"] for name, each in ACTION["outputs"].items()}
    job = {"runs-on": "ubuntu-latest", "outputs": outputs, "steps": steps}
    return yaml.safe_dump({"name": "checked", "on": {"workflow_call": {"inputs": inputs}}, "jobs": {"checked": job}}, sort_keys=False)


def test_actionlint_finds_nothing_in_the_action_and_the_example() -> None:
    assert actionlint(as_workflow(STEPS)) == "[]"
    assert actionlint((ROOT / "docs/ci/github.yml").read_text(encoding="utf-8")) == "[]"


@pytest.mark.parametrize("bad", ["${{ inputs.nothing }}", "${{ steps.nowhere.outputs.code }}", "${{ github.event.issue.title }}"])
def test_and_it_would(bad: str) -> None:
    assert "expression" in actionlint(as_workflow([*STEPS, {"name": "bad", "shell": "bash", "run": f"echo {bad}"}]))


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.github-actions", "action.yml"),
        ("vendor.github-workflows", "docs/ci/github.yml"),
        ("vendor.gitlab-ci", "docs/ci/gitlab.yml"),
    ],
)
def test_files_fit_the_published_schemas(schema: str, file: str) -> None:
    more = ["--data-transform", "gitlab-ci"] if "gitlab" in schema else []
    command = [TOOLS / "bin" / "check-jsonschema", "--builtin-schema", schema, *more, ROOT / file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", [step["name"] for step in STEPS if "run" in step])
def test_shellcheck_finds_nothing_in_the_steps(name: str) -> None:
    script = next(step["run"] for step in STEPS if step["name"] == name)
    command = [TOOLS / "bin" / "shellcheck", "--shell=bash", "-"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
