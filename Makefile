# Everything lives in .venv; `make demo` and `make test` set it up on a machine with only Python and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# torch's registry build of another version brings gigabytes of CUDA; this one is the CPU build where one is offered.
TORCH := torch==2.13.0
TORCH_INDEX ?=
# How long `make fuzz` looks for new findings.
FUZZ_SECONDS ?= 3600
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo check test fuzz test-gpu test-gpu-slow android-tools test-android lint clean

help:
	@echo "make demo           set up, export the shipped pair, run it with MTP off and on, compare it with transformers"
	@echo "make check          set up, run linters and the tests that need no export: two minutes"
	@echo "make test           set up, run linters and all tests"
	@echo "make fuzz           set up, damage files of all kinds with new seeds for FUZZ_SECONDS, an hour by default"
	@echo "make test-gpu       set up, run the shipped pair on LiteRT-LM's GPU backend"
	@echo "make test-gpu-slow  the same for E2B's widths, and for graphs with their GPU features taken out"
	@echo "make test-android   set up, fetch tools, run what a phone runs as far as it runs here: bench program, app, device"
	@echo "make lint           format check, lint and type check only"
	@echo "make clean          remove the environment and caches"

$(VENV)/.setup: pyproject.toml
	@echo "== setting up $(VENV) (downloads about 1 GB the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	@$(PYTHON) -m venv $(VENV)
	@echo "== installing torch (CPU)"
	@$(PIP) $(TORCH_INDEX) $(TORCH)
	@echo "== installing gemma-mtp-export"
	@$(PIP) -e .
	@touch $@

$(VENV)/.setup-dev: $(VENV)/.setup
	@echo "== installing test tools"
	@$(PIP) -e '.[dev]'
	@touch $@

setup: $(VENV)/.setup
setup-dev: $(VENV)/.setup-dev

demo: setup
	@echo "== exporting the shipped pair and running it on stock LiteRT-LM"
	@$(BIN)/gemma-mtp-export demo

lint: setup-dev
	@echo "== format, lint, types"
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/basedpyright

check: lint
	@echo "== tests that need no export"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --durations=0 --durations-min=5 -m "not export and not slow and not gpu and not gpu_slow and not android"

test: lint
	@echo "== tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

fuzz: setup-dev
	@echo "== fuzzing for $(FUZZ_SECONDS) seconds"
	@FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest -q -s tests/fuzz --timeout=0

test-gpu: setup-dev
	@echo "== GPU tests (on SwiftShader, a software device, where there is no GPU)"
	@$(BIN)/python -m pytest -m 'gpu and not gpu_slow' tests/gpu

test-gpu-slow: setup-dev
	@echo "== slow GPU tests (about half an hour and 8 GB of disk on SwiftShader)"
	@$(BIN)/python -m pytest -m gpu_slow tests/gpu

android-tools: setup-dev
	@tests/android/fetch-tools.sh .cache/android-tools $(BIN)/python

test-android: android-tools
	@echo "== Android: bench program here and on emulated ARM64, app, device command"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m android tests/android

clean:
	rm -rf $(VENV) .cache build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
