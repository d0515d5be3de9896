# Each target works alone, in any order, from a clean clone: the virtual environment is made when it is missing and
# brought up to date when the pins change. `make` by itself lists the targets.

PYTHON ?= python3
VENV   ?= .venv
STAMP  := $(VENV)/.installed
RUN    := OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(VENV)/bin:$$PATH"

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all quality style clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make or update .venv with the pinned packages

$(STAMP): setup.py requirements.txt
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned packages into $(VENV): about 2 GB, a few minutes, only when the pins change"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e .
	@touch $@

demo: $(STAMP) ## data, tiny model, cold start, GRPO, before/after table; CPU, minutes (SEED=n for another seed)
	$(RUN) $(if $(SEED),SEED=$(SEED)) bash run_scripts/demo.sh

test: $(STAMP) ## unit and e2e tests without the slow ones; CPU, minutes
	$(RUN) python -m pytest -q -m "not slow and not gpu"

test-all: $(STAMP) ## every test; those that need a GPU are skipped without one
	$(RUN) python -m pytest -q

quality: $(STAMP) ## lint and format check, changes nothing
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

style: $(STAMP) ## apply lint fixes and formatting
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## remove caches and build leftovers; keeps .venv and everything that runs wrote
	rm -rf build dist src/*.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
