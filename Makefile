# Needs Python >= 3.11, git and make. Every target makes and fills .venv first if it has to.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Installed from exactly these; a change in either installs again.
SOURCES := pyproject.toml constraints.txt

.PHONY: help quickstart test check soak clean
.DEFAULT_GOAL := help

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile | expand -t 20

quickstart: $(VENV)/quickstart.stamp  ## extract, train, evaluate and predict on real text, offline
	$(BIN)/unipt run quickstart

test: $(VENV)/dev.stamp  ## the test suite
	$(BIN)/python -m pytest -n auto --maxprocesses 4

check: $(VENV)/dev.stamp  ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks
	$(BIN)/python -m pytest -q tests/test_layers.py

soak: $(VENV)/dev.stamp  ## long fault and soak tests
	$(BIN)/python -m pytest -m soak

clean:  ## remove .venv, what tools left, and the output of quickstart
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis quickstart
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/%.stamp: $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "unipt needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@
