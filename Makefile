# One command per job, the same for a person and for CI. Each sets up what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_FLAGS ?=

.PHONY: demo test lint types check clean

demo: $(VENV)/.installed
	$(BIN)/p2p-elastic demo --peers 3

test: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses 2 --ignore tests/live
	$(BIN)/python -m pytest tests/live  # with the cores to themselves

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

check: lint types test

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info)' || \
		{ echo "Python 3.10 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "Installing p2p-elastic with PyTorch: a few minutes the first time."
	$(BIN)/python -m pip install $(PIP_FLAGS) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo-output .mypy_cache .pytest_cache .ruff_cache
