# Every target first makes the environment it needs: a virtual environment with the tested versions of constraints.txt.
# PYTHON picks the interpreter (3.11 or newer), VENV the folder.
PYTHON ?= python3
VENV ?= .venv

BIN := $(abspath $(VENV))/bin
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-all bench-smoke lint types imports format clean

help:
	@echo "make demo      train on the embedded dataset, generate, write demo-report/report.html (CPU, minutes)"
	@echo "make test      the tests, without the slow ones"
	@echo "make test-all  all tests"
	@echo "make bench-smoke  one small unit of every kind of experiment of the benchmarks (CPU, minutes)"
	@echo "make lint      style, types and import contract"
	@echo "make format    rewrite the code in the project's style"
	@echo "make clean     remove what these targets made, the environment included"

demo: $(VENV)/.installed-demo
	$(BIN)/gta-datasets demo --device cpu --output demo-report

test: $(VENV)/.installed-test
	$(PYTEST) -m "not slow and not gpu"

test-all: $(VENV)/.installed-test
	$(PYTEST)

bench-smoke: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.smoke

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(MAKE) --no-print-directory types imports

# The checkers see the package as it is installed, with adapters/ inside, and the benchmarks beside it.
types: $(VENV)/.installed-dev build/lint
	cd build/lint && $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p gta_datasets -p benchmarks

imports: $(VENV)/.installed-dev build/lint
	cd build/lint && $(BIN)/lint-imports --config $(CURDIR)/pyproject.toml --no-cache

.PHONY: build/lint
build/lint:
	@rm -rf build/lint && mkdir -p build/lint
	@cp -Rp gta_datasets build/lint/ && cp -Rp adapters build/lint/gta_datasets/adapters && cp -Rp benchmarks build/lint/

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) build dist demo-report .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find gta_datasets adapters tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Installing: the stamp of a larger set stands for the smaller ones too, so nothing is installed twice.
INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable

$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing gta-datasets and its dependencies into $(VENV) (PyTorch is large: this can take minutes)"
	@$(INSTALL) ".[demo]"
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing gta-datasets, its dependencies and the test tools into $(VENV) (this can take minutes)"
	@$(INSTALL) ".[test]"
	@touch $(VENV)/.installed-demo $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing gta-datasets, its dependencies and the development tools into $(VENV) (this can take minutes)"
	@$(INSTALL) ".[dev]"
	@touch $(VENV)/.installed-demo $(VENV)/.installed-test $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("gta-datasets needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; choose another: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)
