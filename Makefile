# `make` alone lists the targets. PYTHON chooses the interpreter, VENV where its packages go.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

RUFF_RULES = --isolated --line-length 110 --target-version py39
RUFF_SELECT = --select A,B,C4,E,F,I,N,PIE,PT,RET,RUF,SIM,UP,W --ignore N818,RUF001,RUF043,UP031

.DEFAULT_GOAL = help

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 24

run: ## serve projects.db at http://127.0.0.1:6006
	@$(PYTHON) -m projects_wsgi

test: $(VENV)/.test ## run the tests
	$(BIN)/python -m pytest $(ARGS)

test-wild: $(VENV)/.test ## send 20,000 random requests to each property test of bad input
	HYPOTHESIS_EXAMPLES=20000 $(BIN)/python -m pytest tests/test_bad_input.py

test-faults: $(VENV)/.faults ## kill, fill, starve and abuse real processes for some minutes
	$(BIN)/python -m pytest -rP tests/faults $(ARGS)

test-clients: $(VENV)-clients/.installed ## run the official Python client against the server
	$(VENV)-clients/bin/python -m pytest --confcutdir tests/clients tests/clients

test-package: $(VENV)/.dev ## build the package, install it elsewhere, run it
	rm -rf build dist $(VENV)-package
	$(BIN)/python -m build --quiet
	$(PYTHON) -m venv $(VENV)-package
	$(VENV)-package/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd $(VENV)-package && bin/projects-wsgi --version && bin/python -m projects_wsgi --version
	$(VENV)-package/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall .
	cd $(VENV)-package && bin/projects-wsgi --version

PYTHONS ?= python3.9 python3.13

test-pythons: ## run tests, style and types on each of PYTHONS
	@set -e; for python in $(PYTHONS); do \
		version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		echo "-- $$python ($$version)"; \
		$(MAKE) --no-print-directory PYTHON=$$python VENV=$(VENV)-$$version test lint types; \
	done

lint: $(VENV)/.dev ## check style and format
	$(BIN)/ruff check $(RUFF_RULES) $(RUFF_SELECT) projects_wsgi tests
	$(BIN)/ruff format $(RUFF_RULES) --check projects_wsgi tests

format: $(VENV)/.dev ## put style and format right
	$(BIN)/ruff format $(RUFF_RULES) projects_wsgi tests
	$(BIN)/ruff check $(RUFF_RULES) $(RUFF_SELECT) --fix projects_wsgi tests

types: $(VENV)/.dev ## check the types
	$(BIN)/mypy

$(VENV)/.test: setup.cfg
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

$(VENV)/.faults: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[faults]'
	@touch $@

$(VENV)-clients/.installed: setup.cfg
	$(PYTHON) -m venv $(VENV)-clients
	$(VENV)-clients/bin/python -m pip install --quiet --disable-pip-version-check '.[clients]'
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

.PHONY: help run test test-wild test-faults test-clients test-package test-pythons lint format types
