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
	HYPOTHESIS_EXAMPLES=20000 $(BIN)/python -m pytest tests/promises/test_bad_input.py

test-faults: $(VENV)/.faults ## kill, fill, starve and abuse real processes for some minutes
	$(BIN)/python -m pytest -rP tests/faults $(ARGS)

test-clients: $(VENV)-clients/.installed ## run the official Python client against the server
	$(VENV)-clients/bin/python -m pytest --confcutdir tests/clients tests/clients

HOSTS_PACKAGES = nginx libapache2-mod-wsgi-py3

test-hosts: $(VENV)-hosts/.installed ## run it within hosts, under other servers, behind nginx
	@test -x /usr/sbin/nginx -a -f /usr/lib/apache2/modules/mod_wsgi.so || \
		{ test $$(id -u) = 0 && apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -qq -y --no-install-recommends $(HOSTS_PACKAGES) >/dev/null; } || \
		{ echo "this needs Debian's packages $(HOSTS_PACKAGES); let root install them" >&2; exit 1; }
	$(VENV)-hosts/bin/python -m pytest --confcutdir tests/hosts tests/hosts

FUZZ_EXAMPLES ?= 600
FUZZ_SEED ?= $(shell date +%s)

test-fuzz: $(VENV)-fuzz/.installed ## test the OpenAPI document against the server (Python 3.11 or later)
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) FUZZ_SEED=$(FUZZ_SEED) \
		$(VENV)-fuzz/bin/python -m pytest --confcutdir tests/fuzz tests/fuzz

bench: $(VENV)-bench/.installed ## measure it beside its peers; ROWS='by id|page' runs some rows only
	@$(VENV)-bench/bin/python -m tests.bench $(if $(ROWS),--rows '$(ROWS)') $(ARGS)

bench-smoke: $(VENV)-bench/.installed ## run all of the bench with tiny counts; judges answers, not times
	@$(VENV)-bench/bin/python -m tests.bench --smoke $(if $(ROWS),--rows '$(ROWS)') $(ARGS)

test-package: $(VENV)/.dev ## build the package, install it elsewhere, run it
	rm -rf build dist $(VENV)-package
	$(BIN)/python -m build --quiet
	$(PYTHON) -m venv $(VENV)-package
	$(VENV)-package/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd $(VENV)-package && bin/projects-wsgi --version && bin/python -m projects_wsgi --version
	$(VENV)-package/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall .
	cd $(VENV)-package && bin/projects-wsgi --version

pythons: ## list the Pythons of this machine, one of each version from 3.9 on
	@for minor in 9 10 11 12 13 14 15; do \
		for python in $$(ls "$$(pyenv root 2>/dev/null)/versions/3.$$minor".*/bin/python 2>/dev/null) \
				python3.$$minor; do \
			if $$python -c 'import ensurepip, sqlite3' 2>/dev/null; then echo $$python; break; fi; \
		done; \
	done

test-pythons: ## run tests and types on each of those Pythons
	@set -e; for python in $$($(MAKE) --silent pythons); do \
		version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		echo "-- $$python ($$version)"; \
		$(MAKE) --no-print-directory PYTHON=$$python VENV=$(VENV)-$$version test types; \
	done

# The oldest SQLite that is supported comes from the sources which an old package of npm's brings along.
OLD_SQLITE = $(VENV)-sqlite

test-old-sqlite: $(VENV)/.test $(OLD_SQLITE)/libsqlite3.so.0 ## run the tests on SQLite 3.31, which takes cc and npm
	LD_LIBRARY_PATH=$(abspath $(OLD_SQLITE)) $(BIN)/python -c \
		'import sqlite3; assert sqlite3.sqlite_version == "3.31.1", sqlite3.sqlite_version'
	LD_LIBRARY_PATH=$(abspath $(OLD_SQLITE)) $(BIN)/python -m pytest $(ARGS)

$(OLD_SQLITE)/libsqlite3.so.0:
	mkdir -p $(OLD_SQLITE)
	cd $(OLD_SQLITE) && npm pack --silent sqlite3@4.2.0 && tar -xzf sqlite3-4.2.0.tgz
	cd $(OLD_SQLITE) && tar -xzf package/deps/sqlite-autoconf-3310100.tar.gz
	cd $(OLD_SQLITE) && $(CC) -O1 -shared -fPIC -DSQLITE_ENABLE_DESERIALIZE -o $(@F) \
		sqlite-autoconf-3310100/sqlite3.c -lpthread -ldl

VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' projects_wsgi/__init__.py)
copy_package = cp -R projects_wsgi "$(1)" && find "$(1)" -name __pycache__ -prune -exec rm -r {} + \
	&& cp LICENSE "$(1)" && echo "$(VERSION)" > "$(1)/VERSION"

vendor: ## copy the package, with its license and version, to the folder DEST
	@test -n "$(DEST)" || { echo "say where to: make vendor DEST=myapp/_vendor"; exit 2; }
	@test ! -e "$(DEST)/projects_wsgi" || { echo "$(DEST)/projects_wsgi exists already; remove it first"; exit 2; }
	@mkdir -p "$(DEST)"
	@$(call copy_package,$(DEST)/projects_wsgi)
	@echo "$(DEST)/projects_wsgi is projects_wsgi $(VERSION)"

zipapp: ## put the package into one file, dist/projects-wsgi.pyz, that any Python from 3.9 on runs
	@rm -rf build/zipapp && mkdir -p build/zipapp dist
	@$(call copy_package,build/zipapp/projects_wsgi)
	@printf 'import sys\n\nfrom projects_wsgi.cli import main\n\nsys.exit(main())\n' > build/zipapp/__main__.py
	@$(PYTHON) -m zipapp build/zipapp --compress --python "/usr/bin/env python3" --output dist/projects-wsgi.pyz
	@echo "dist/projects-wsgi.pyz is projects_wsgi $(VERSION); run it with any Python from 3.9 on"

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

$(VENV)-%/.installed: setup.cfg
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/python -m pip install --quiet --disable-pip-version-check '.[$*]'
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

.PHONY: help run test test-wild test-faults test-clients test-hosts test-fuzz test-package pythons \
	test-pythons test-old-sqlite vendor zipapp bench bench-smoke lint format types
