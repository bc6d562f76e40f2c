# `make test-all` and `make demo` need a machine with Python 3.11 or newer and nothing else: they set up the rest in .venv.
# What is done is stamped, so a second run starts at once; a changed pyproject.toml or constraints.txt installs again.

PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
VENV ?= .venv
RUN ?= runs/demo
PYTEST ?=

bin := $(VENV)/bin
pip := $(bin)/python -m pip --disable-pip-version-check --no-input
magic_rl := $(bin)/magic-rl
# One thread each, as tiny models are no faster on several, and tests of the same file in one process, as they share a run.
pytest := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(bin)/pytest -n auto --maxprocesses 4 --dist loadfile
requirements := pyproject.toml constraints.txt
# There are builds of vLLM for this system only; elsewhere the tests on it are skipped.
serving := $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),$(VENV)/serving/installed) $(VENV)/skyrl/installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint docs format golden browser clean

help: ## Say what can be made
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/installed ## Train the demo (about 25 minutes on two cores), evaluate it, write its report, print the table
	@MAGIC_RL_TYPED="make $(strip demo $(MAKEOVERRIDES))" $(magic_rl) demo --run $(RUN)

test: $(VENV)/installed-dev ## The tests that need no model, server or browser: a few minutes. PYTEST="-k name" chooses among them
	$(pytest) -m "not (slow or server or browser or gpu)" $(PYTEST)

test-all: lint docs $(VENV)/installed-dev $(VENV)/model $(serving) $(VENV)/garak/installed $(VENV)/attackers/installed browser ## Everything that must hold: linters, types, import rules, docs, all tests
	$(pytest) $(PYTEST)

lint: $(VENV)/installed-dev ## ruff, mypy and the import rules
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	$(bin)/lint-imports --no-logo

golden: $(VENV)/installed-dev ## Write the numbers that a small run must give again, after a change that is meant
	$(bin)/python -m tests.golden.make

docs: $(VENV)/installed-docs ## Build the documentation site into site/; a broken link or name is an error
	NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --strict --quiet

format: $(VENV)/installed-dev ## Put the code into shape
	$(bin)/ruff check --fix
	$(bin)/ruff format

clean: ## Remove the environment and caches; runs and fetched models are kept
	rm -rf $(VENV) site dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/created:
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or newer is needed; install it or say make PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/created $(requirements)
	$(pip) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(pip) install --quiet -c constraints.txt -e '.[dev,eval]'
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(pip) install --quiet -c constraints.txt -e '.[docs]'
	@touch $@

# Order-only: the model does not change with the code.
$(VENV)/model: | $(VENV)/installed
	$(magic_rl) models pull
	@touch $@

# What others keep, for the tests: vLLM (serving), garak, PyRIT and nanoGCG (attackers). Each is an environment on top of the other
# one, with versions of its own.
$(VENV)/%/installed: $(VENV)/installed tests/%.txt
	$(bin)/python -m venv --clear $(@D)
	$(bin)/python -c 'import site; print(site.getsitepackages()[0])' \
		> "$$($(@D)/bin/python -c 'import site; print(site.getsitepackages()[0])')/below.pth"
	$(@D)/bin/python -m pip --disable-pip-version-check --no-input install --quiet --no-deps -r tests/$*.txt
	@touch $@

# A server of the Tinker API for the tests, on top of the project's environment likewise. On Python 3.11 it needs a newer TypedDict.
$(VENV)/skyrl/installed: $(VENV)/installed-dev tests/skyrl.txt
	$(bin)/python -m venv --clear $(VENV)/skyrl
	packages="$$($(VENV)/skyrl/bin/python -c 'import site; print(site.getsitepackages()[0])')"; \
		$(bin)/python -c 'import site; print(site.getsitepackages()[0])' > "$$packages/below.pth"; \
		printf 'import typing\n\nimport typing_extensions\n\ntyping.TypedDict = typing_extensions.TypedDict\n' > "$$packages/sitecustomize.py"
	$(VENV)/skyrl/bin/python -m pip --disable-pip-version-check --no-input install --quiet --no-deps -r tests/skyrl.txt
	@touch $@

# A page is looked at in Debian's Chromium by one test.
browser:
	@command -v chromium >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
		else \
			echo "the report is looked at in Chromium: install it so that the command 'chromium' is found (Debian: apt-get install chromium)" >&2; \
			exit 2; \
		fi; \
	}
