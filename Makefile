# `make` lists the targets; each is described by the comment behind it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORY := Once upon a time

.DEFAULT_GOAL := help
.PHONY: help story test check format bench clean distclean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

story: $(VENV)/.run  ## Tell a story; the first time, fetch what that takes
	@$(BIN)/cullama story "$(STORY)" --stats

test: $(VENV)/.dev  ## Run all tests
	$(BIN)/python -m pytest

check: $(VENV)/.dev  ## Check formatting, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.run  ## Measure speed beside this machine's limits
	@$(BIN)/cullama bench

clean:  ## Remove what the tools leave behind
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## … and the environment
	rm -rf $(VENV)

# The environment is made anew when the list of dependencies changes.
$(VENV)/.run: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo 'cullama needs Python 3.10 or newer: make PYTHON=python3.12 …' >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'installing cullama into $(VENV) …'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo 'installing the tools for tests and checks …'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
