# make demo     set up .venv and run the two demonstrations on data that travels with the packages
# make test     the test suite: needs Python and the package index only
# make test-slow  what needs more: Fashion-MNIST, Flower's own runtime, a second Ray, Chromium
# make test-plain, make docs-check-plain  the same as on a processor with hardly any vector units
# make check    ruff and mypy
# make docs     the pages that are made from the code; make docs-check  the tables and figures that take at most a minute

PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.set-up

.PHONY: demo test test-plain test-slow check docs docs-check docs-check-plain format clean

demo: $(SETUP)
	$(BIN)/fl-sim run digits
	$(BIN)/fl-sim run crowd --runtime ray

test: $(SETUP)
	$(BIN)/python -m pytest -m "not slow" -n 2

test-plain: $(SETUP)
	$(BIN)/python tests/held_down.py $(BIN)/python -m pytest -m "not slow" -n 2

test-slow: $(SETUP)
	$(BIN)/python -m pytest -m slow

check: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(SETUP)
	$(BIN)/python docs/generate.py

docs-check: $(SETUP)
	$(BIN)/python docs/check.py --fast

docs-check-plain: $(SETUP)
	$(BIN)/python tests/held_down.py $(BIN)/python docs/check.py --fast

format: $(SETUP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs

# From pinned versions, into a folder of its own; again only when what is asked for has changed.
$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fl-sim needs Python 3.11 or newer, and $(PYTHON) is `$(PYTHON) --version`; name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up .venv; the first time this downloads several GB, most of it PyTorch with CUDA."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $(SETUP)
