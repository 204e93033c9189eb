# The main job in two commands: `make demo` and `make test`. Everything runs in .venv, which is made when it is missing.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/ready

# Two processes of one thread each; they must collect the same tests in the same order.
PYTEST := env OMP_NUM_THREADS=1 TVM_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all bench check format readme clean

help:  ## say what the targets do
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(READY)  ## make .venv with the locked dependencies

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Mercer needs Python 3.11; set PYTHON=...")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)  ## train, compile and run the digits model on real data
	@$(BIN)/mercer demo

test: $(READY)  ## lint, types and the tests, in a few minutes
	@status=0; $(MAKE) --no-print-directory check || status=1; $(PYTEST) -m 'not slow' || status=1; exit $$status

test-all: $(READY)  ## the same with the slow tests
	@status=0; $(MAKE) --no-print-directory check || status=1; $(PYTEST) || status=1; exit $$status

bench: $(READY)  ## the speed on this CPU beside other systems, in about an hour; ARGS=--quick for ten minutes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@$(BIN)/python -m benchmarks.cpu --save benchmarks/results $(ARGS)

check: $(READY)  ## ruff and pyright
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check
	@$(BIN)/pyright --project .

format: $(READY)  ## put the code in its form
	@$(BIN)/ruff check --quiet --fix
	@$(BIN)/ruff format

readme: $(READY)  ## run the demo and put its picture into README.md
	@$(BIN)/python docs/update_readme.py

clean:  ## remove .venv and what tools and tests leave behind
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis .mercer
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
