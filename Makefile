# Needs Python 3.11 or newer and make; everything else is installed into .venv here.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow test-docs lint docs

demo: .venv/core
	$(BIN)/python -m experiments.sweep --flagfile=demo.flags --out=out/demo --resume

# In the order of the folders: by their numbers of tests, files with few and long ones would come last, to one worker.
test: .venv/test
	$(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder

test-slow: .venv/test .venv/docs
	$(BIN)/python -m pytest -m slow

test-docs: .venv/test .venv/docs
	$(BIN)/python -m pytest -m slow tests/test_snippets.py tests/test_docs.py

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "docs: build/docs/index.html"

.venv/python: Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; give another one with make PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/core: .venv/python setup.cfg constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

.venv/test: .venv/core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

.venv/docs: .venv/core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@
