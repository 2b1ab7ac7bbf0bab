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

$(VENV)/.dev: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

.PHONY: help run test lint format types
