# quickstart: from a bare clone to a trained classifier. test: the whole suite.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-oldest check fmt bench clean

quickstart: $(VENV)/.installed
	$(BIN)/leantune assets
	$(BIN)/leantune train quickstart --overwrite

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

# the same with the oldest versions that pyproject.toml allows, of which torch alone takes 3 GB
test-oldest: $(VENV)-oldest/.installed-test
	$(VENV)-oldest/bin/python -m pytest

check: $(VENV)/.installed-test
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy

fmt: $(VENV)/.installed-test
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

bench: $(VENV)/.installed-bench
	$(BIN)/leantune assets
	$(BIN)/python -m benchmarks.speed

clean:
	rm -rf $(VENV) $(VENV)-oldest runs .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)-oldest/.installed-test: pyproject.toml tests/oldest.txt
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --constraint tests/oldest.txt --editable '.[test]'
	@touch $@

$(VENV)/.installed-bench: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@ $(VENV)/.installed
