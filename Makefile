# The two commands: `make sweep` runs the first sweep, `make test` everything that CI runs. Both make .venv when it is not there.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: sweep test lint types pytest peers bench clean

sweep: .venv/installed
	@$(BIN)/niah sweep configs/quickstart.toml

test: lint types pytest

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/tested
	$(BIN)/pyright

pytest: .venv/tested
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term

bench: .venv/tested
	$(BIN)/python benchmarks/prompts.py
	$(BIN)/python benchmarks/variety.py

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/tested: .venv/installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

clean:
	rm -rf .venv .venv-peers .pytest_cache .ruff_cache .hypothesis .coverage*
