# Everything runs in .venv, which is built again when pyproject.toml or constraints.txt change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt
SOURCES := pyproject.toml constraints.txt

.PHONY: run test check format docs bench clean

run: $(VENV)/.installed-run
	$(BIN)/workbench app

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --timeout 300 $(TESTS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-run
	$(BIN)/python -m engine.docs

bench: $(VENV)/.installed-test
	$(BIN)/python -m tests.benchmarks $(BENCH)

clean:
	rm -rf $(VENV) build *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-run: $(BIN)/python $(SOURCES)
	$(INSTALL) --editable '.[all]'
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed-run
	$(INSTALL) --editable '.[all,test]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-run
	$(INSTALL) --editable '.[all,test,dev]'
	touch $@
