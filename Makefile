# make demo | test | test-slow | mutants | fuzz | browser | lint | docs | bench | pi-smoke | clean.   Nothing is installed outside .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Byte code is compiled when it is first used: a quarter of the disk space and less wear on an SD card.
PIP := PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip -q
SOURCES := $(shell find runtime models discovery firmware_export -name '*.py' -o -name '*.in' -o -name py.typed | LC_ALL=C sort)

.PHONY: demo test test-slow mutants fuzz browser lint docs bench pi-smoke clean

demo: $(VENV)/installed
	@$(BIN)/flocklet demo

# Two processes, each with one BLAS thread (tests/conftest.py): two cores are what a Pi or a small CI machine has to spare.
PYTEST := $(BIN)/python -m pytest -n 2

# What is marked slow, fuzz or browser is left out by pyproject.toml; each has a target of its own.
test: $(VENV)/developing
	$(PYTEST)

# Real processes, emulators, long documented commands, examples, more seeds.
test-slow: $(VENV)/developing
	$(PYTEST) -m slow

# Hostile bytes and broken lines. pytest says 5 when no test has the mark: that is no failure.
fuzz: $(VENV)/developing
	@$(PYTEST) -m fuzz || { code=$$?; test $$code -eq 5 && echo "make fuzz: no test is marked fuzz yet" || exit $$code; }

browser: $(VENV)/developing
	@$(PYTEST) -m browser || { code=$$?; test $$code -eq 5 && echo "make browser: there is no page yet, so there is nothing to test in a browser" || exit $$code; }

# Break the lines that protect an owner, one by one (tests/mutants.tsv): every one must be noticed.
mutants: $(VENV)/developing
	$(BIN)/python tests/mutants.py

lint: $(VENV)/developing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p flocklet
	$(BIN)/pyright
	$(BIN)/lint-imports

# The manual and the reference of the Python face, as a site in build/site.
docs: $(VENV)/documenting
	$(BIN)/mkdocs build --strict -q
	@echo "the site is in build/site"

bench: $(VENV)/developing
	$(BIN)/python benchmarks/all.py

pi-smoke: $(VENV)/developing
	$(BIN)/python benchmarks/pi_smoke.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flocklet needs Python 3.11 or newer; run: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "no venv module: on Debian and Raspberry Pi OS, sudo apt-get install python3-venv" >&2; exit 1; }

# For people: the package as it will run, without the tools of its makers.
$(VENV)/installed: $(VENV)/bin/python pyproject.toml $(SOURCES)
	@echo "installing flocklet into $(VENV) ..."
	@test -e $(VENV)/developing || $(PIP) install .
	@touch $@

# For makers: an editable install that type checkers can see through, renewed when a file comes or goes.
$(VENV)/developing: $(VENV)/bin/python pyproject.toml $(SOURCES)
	@echo "installing flocklet and its development tools into $(VENV) ..."
	@test -e $@ && test $@ -nt pyproject.toml || $(PIP) install -U 'setuptools>=77' wheel
	@if test -e $@ && test $@ -nt pyproject.toml; \
	 then $(PIP) install --no-deps --no-build-isolation -e . --config-settings editable_mode=strict; \
	 else $(PIP) install --no-build-isolation -e '.[dev]' --config-settings editable_mode=strict; fi
	@touch $@

$(VENV)/documenting: $(VENV)/developing
	@test -e $@ && test $@ -nt pyproject.toml || $(PIP) install --no-build-isolation -e '.[docs]' --config-settings editable_mode=strict
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
