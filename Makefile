# One command per job, the same for a person and for CI. Each sets up what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_FLAGS ?=
PIP_INSTALL ?= $(BIN)/python -m pip install $(PIP_FLAGS)

.PHONY: demo test live integrations browser monitoring images arm64 services quick lint types structure check lowest docs picture clean

demo: $(VENV)/.installed
	$(BIN)/p2p-elastic demo --peers 3

# Tests that need other programs or other projects; each has a target of its own.
APART := $(foreach part,browser monitoring containers services live/integrations,--ignore tests/$(part))

# In two halves: what runs processes and has deadlines comes later, without the other half beside it, and two tests at a
# time, as more would keep each other from answering in time.
test: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(APART) -m 'not processes'
	$(MAKE) --no-print-directory live

live: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(APART) -m processes

# The examples, and the trainers of other projects, which it installs.
integrations: $(VENV)/.installed-trainers
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal tests/live/integrations

# The page of a peer in a headless Chromium, which must be installed (`apt install chromium`): half a minute.
browser: $(VENV)/.installed-browser
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal tests/browser

# Alert rules and dashboard, in a real Prometheus that scrapes two live peers; without one they are skipped.
monitoring: $(VENV)/.installed
	$(BIN)/python -m pytest tests/monitoring

# The image, built, and containers of it that stop, restart, are killed and have little. Needs Linux, root and buildah.
IMAGE ?= localhost/p2p-elastic
IMAGE_OPTIONS ?=
images: $(VENV)/.installed
	buildah build --isolation chroot --format docker --layers $(IMAGE_OPTIONS) -f docker/Dockerfile -t $(IMAGE) .
	P2P_ELASTIC_IMAGE=$(IMAGE) $(BIN)/python -m pytest -s tests/containers

# Services of a systemd that boots in namespaces of its own. Needs Linux, root and mmdebstrap; the first time a network.
MACHINE ?= build/machine
MACHINE_SUITE ?= bookworm
MACHINE_PACKAGES := systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,procps,python3
services: $(VENV)/.installed $(MACHINE)/.made
	P2P_ELASTIC_MACHINE=$(abspath $(MACHINE)) $(BIN)/python -m pytest tests/services

# The doctor, a peer and unit tests on emulated arm64. What it needs: tests/arm64/run
arm64:
	tests/arm64/run

# Pure functions and virtual time in small: under a minute.
quick: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses 2 $(APART) --ignore tests/live --ignore tests/simulation --ignore tests/large \
		--ignore tests/unit/simulator -m 'not processes'

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy
	for folder in $$(find benchmarks -name '*.py' -exec dirname {} + | sort -u); do \
		echo $$folder && MYPYPATH=tests:benchmarks:$$folder $(BIN)/mypy --config-file benchmarks/mypy.ini $$folder/*.py || exit 1; \
	done

# Folders, layers, classes, docstrings and tests in figures; `make test` holds them to their limits.
structure: $(VENV)/.installed
	@$(BIN)/python tests/helpers/structure.py

check: lint types test

# The site, in build/docs. Needs no network once the tools are there; warnings and broken links within it are errors.
docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env --jobs 1 docs build/docs

# The architecture as a picture; needs Graphviz (`apt install graphviz`, `brew install graphviz`).
picture:
	dot -Tsvg -o docs/architecture.svg docs/architecture.dot

# The quick tests with the lowest versions that pyproject.toml allows. That PyTorch is not made for Python 3.13 or newer.
lowest: PYTHON = python3.10
lowest: LOWEST = $(VENV)-lowest
lowest:
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(MAKE) quick PYTHON=$(PYTHON) VENV=$(LOWEST) \
		PIP_INSTALL='$(LOWEST)/bin/uv pip install --python $(LOWEST)/bin/python --resolution lowest-direct'

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info)' || \
		{ echo "Python 3.10 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "Installing p2p-elastic with PyTorch: a few minutes the first time."
	$(PIP_INSTALL) --editable '.[dev]'
	touch $@

$(MACHINE)/.made:
	rm -rf $(MACHINE)
	mkdir -p $(dir $(MACHINE))
	mmdebstrap --variant=minbase --include=$(MACHINE_PACKAGES) $(MACHINE_SUITE) $(MACHINE)
	touch $@

$(VENV)/.installed-trainers: $(VENV)/.installed
	$(PIP_INSTALL) --editable '.[transformers,lightning,accelerate]' peft
	touch $@

$(VENV)/.installed-browser: $(VENV)/.installed
	$(PIP_INSTALL) --editable '.[browser]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP_INSTALL) --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-lowest build dist *.egg-info demo-output .mypy_cache .pytest_cache .ruff_cache
