# Each target does all its own set-up; it needs Python 3.11+, git and make, and the network for installing only.
PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
INSTALLED := $(VENV)/.installed
# files side by side (tests/conftest.py), one more than there are cores, since some wait for a server; in their order, or
# the few long ones come last
PARALLEL ?= --numprocesses $(shell $(PYTHON) -c "import os; print(min(4, os.cpu_count() + 1))") --dist loadfile \
  --no-loadscope-reorder
export PATH := $(BIN):$(PATH)

.PHONY: repro test fuzz covered quick check docs bench newcomer audit

repro: $(INSTALLED)   ## data to report, by DVC; what has not changed is not run again
	@$(BIN)/nfk repro

test fuzz covered quick: export OPENBLAS_NUM_THREADS ?= 1   # tests/conftest.py says why

test: $(INSTALLED)   ## every test but the fuzz, the end-to-end run included
	@$(BIN)/python -m tests.side_by_side $(PARALLEL) -m "not fuzz"

fuzz: $(INSTALLED)   ## each reader of outside files against damage by chance and by coverage, twenty seconds each
	@$(BIN)/python -m pytest $(PARALLEL) -m fuzz $(wildcard tests/faults/test_fuzz_*.py)

covered: $(INSTALLED)   ## every branch of stores, locks and readers, or what was missed
	@$(BIN)/python -m tests.side_by_side covered $(PARALLEL)

QUICK := $(filter-out tests/linalg/test_decompositions.py,$(wildcard tests/linalg/test_*.py)) tests/data \
  tests/report tests/registry tests/atlas $(addprefix tests/test_,$(addsuffix .py,cli doctor names params progress store))
quick: $(INSTALLED)   ## readers, stores, decompositions, pages, command line: what a change breaks first, in a minute
	@$(BIN)/python -m pytest $(PARALLEL) -m "not slow" $(QUICK)

newcomer:   ## the first hour of someone new, in a fresh clone and environment, with a browser where there is one
	@$(PYTHON) -m tests.newcomer

bench: $(INSTALLED)   ## the numerical core against its peers, about an hour; tables into the documentation
	@$(BIN)/python -m tests.benchmarks.core
	@$(BIN)/python -m tests.benchmarks.tables

# in an environment of its own, whose packages are not audited with ours
audit: $(INSTALLED)   ## known holes of all that is installed, by the public databases; needs the network
	@$(PYTHON) -m venv .nfk/audit
	@.nfk/audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.10,<3'
	@$(BIN)/python -m pip freeze --exclude-editable > .nfk/audit/installed.txt
	@.nfk/audit/bin/pip-audit --requirement .nfk/audit/installed.txt --no-deps --disable-pip

# the layout is checked, not made: a formatter would put each argument of most calls here on a line of its own
check: $(INSTALLED)   ## lint, layout, types, layers, documentation
	@$(BIN)/ruff check .
	@$(BIN)/ruff check --quiet --preview --select E1,E2,E3 --extend-exclude '*.ipynb' .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(MAKE) --no-print-directory docs

docs: $(INSTALLED)   ## the documentation, into build/docs; a warning is an error
	@$(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning --keep-going infra/docs build/docs
	@echo "documentation: build/docs/index.html"

$(INSTALLED): pyproject.toml infra/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nfk needs Python 3.11 or newer; set PYTHON=...")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing into $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint infra/constraints.txt --editable '.[dev]'
	@touch $@
