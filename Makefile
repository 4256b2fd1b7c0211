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
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term

# The environment of the real servers that tests/peers talk to; without it these tests are skipped and say so.
peers: .venv-peers/installed .venv-litellm/installed

.venv-peers/installed: peers-constraints.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --constraint peers-constraints.txt torch 'transformers[serving]' accelerate
	@touch $@

.venv-litellm/installed: litellm-constraints.txt
	$(PYTHON) -m venv .venv-litellm
	.venv-litellm/bin/python -m pip install --quiet --disable-pip-version-check --constraint litellm-constraints.txt 'litellm[proxy]'
	@touch $@

bench: .venv/tested
	$(BIN)/python benchmarks/prompts.py
	$(BIN)/python benchmarks/variety.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/client.py

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/tested: .venv/installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

clean:
	rm -rf .venv .venv-peers .venv-litellm .pytest_cache .ruff_cache .hypothesis .coverage*
