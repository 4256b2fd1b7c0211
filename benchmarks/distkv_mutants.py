"""Whether the tests of DistKV's protocol notice mistakes: each of tests/engines/distkv/mutants.toml, made in a copy, must fail a test.

    python benchmarks/distkv_mutants.py [WORD ...] [--examples 200] [--first 0] [--property]

WORDs choose mutants by what they are, `--first` leaves out so many. Tests of the managers, of circles and of placement come first, then the
property test (`test_protocol.py`, stateful, without shrinking), then, for what only engines can show, those of moves and losses; the first
that fails is named. With `--property` the property test alone is asked, which draws anew each time. Ends with status 1 if a mutant lives.
The copy holds the package and the tests; the working tree stays as it is.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = Path("tests/engines/distkv")
PROPERTY = ("test_protocol.py",)
ALL = (("test_managers.py", "test_dgfm.py", "test_placement.py"), PROPERTY, ("test_mover.py", "test_losses.py"))
PROFILE = """
from hypothesis import Phase, settings
settings.register_profile("mutants", phases=(Phase.generate,), database=None, max_examples={examples})
settings.load_profile("mutants")
"""


def copied(place: Path, examples: int) -> None:
    for name in ("niah", "tests", "haystacks", "needles", "configs"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    shutil.copy(ROOT / "pyproject.toml", place)
    (place / "mutants_profile.py").write_text(PROFILE.format(examples=examples))


def failed(place: Path, tests: tuple[str, ...]) -> str:
    """The name of a test that fails, or "" if all pass."""
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "mutants_profile", "-p", "no:cacheprovider", "--timeout", "600"]
    environment = os.environ | {"PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*words, *(str(TESTS / name) for name in tests)], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return ""
    told = [line.split(" - ")[0].split("::", 1)[-1] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode != 1 or not told:
        raise SystemExit(f"the tests could not be run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return told[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--property", action="store_true")
    options = parser.parse_args()
    mutants = tomllib.loads((ROOT / TESTS / "mutants.toml").read_text(encoding="utf-8"))["mutant"]
    chosen = [each for each in mutants if not options.words or any(word in each["what"] for word in options.words)]
    chosen, asked, alive = chosen[options.first :], (PROPERTY,) if options.property else ALL, []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        copied(place, options.examples)
        for tests in asked:
            assert not failed(place, tests), "the tests fail without any mistake"
        for each in chosen:
            path, began, found = place / "niah/engines/distkv" / each["file"], time.monotonic(), ""
            right = path.read_text(encoding="utf-8")
            assert right.count(each["old"]) == 1, each["what"]
            path.write_text(right.replace(each["old"], each["new"]), encoding="utf-8")
            for tests in asked:
                found = found or failed(place, tests)
            path.write_text(right, encoding="utf-8")
            alive += [] if found else [each["what"]]
            print(f"{found or 'LIVES':<70} {time.monotonic() - began:>5.0f} s  {each['file']}: {each['what']}", flush=True)
    print(f"{len(chosen) - len(alive)} of {len(chosen)} mutants are noticed")
    sys.exit(bool(alive))


if __name__ == "__main__":
    main()
