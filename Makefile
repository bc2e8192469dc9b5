SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run test check lint format types unit integration containers integrations critical chaos web conformance browser compose up down bench docs audit clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WEB := tests/web
CONFORMANCE := tests/conformance
ARGS ?=
# Of compose/docker-compose.yml; absent: all of them.
SERVICES ?=
COMPOSE := docker compose --file compose/docker-compose.yml
# Test processes: more than two cores' worth, because most tests wait for a socket.
JOBS ?= 4
PYTEST := $(BIN)/python -m pytest -q
PARALLEL := -n $(JOBS) --dist worksteal

# Ctrl-C belongs to the demo alone: as a job of its own it gets the signal, make does not, and make
# ends with the demo's exit status. Should make itself be killed, the kernel ends the demo (setpriv).
SETPRIV := $(shell setpriv --pdeathsig TERM true 2>/dev/null && echo setpriv --pdeathsig TERM)
JOB := $(if $(SETPRIV),set -m; $(SETPRIV))

help: ## Show this list
	@echo "make TARGET [ARGS=…] [PYTHON=python3.12] [JOBS=4]"; echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run ## Redis, gateway, worker and chat page on this machine (ARGS=--once: one sample, then stop)
	@$(JOB) $(BIN)/runcast demo $(ARGS); exit $$?

test: $(VENV)/.test ## Unit, integration and the quick half of chaos, then the promises one by one
	$(PYTEST) $(PARALLEL) -m "not long" tests/unit tests/integration tests/chaos $(ARGS)
	$(PYTEST) tests/mission_critical $(ARGS)

check: lint types unit ## What to run before each commit

lint: $(VENV)/.dev ## ruff: rules and format; bandit: what is more than a low risk
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/bandit -q -ll -r broker gateway agents_sdk

format: $(VENV)/.dev ## Let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev ## mypy, strict
	$(BIN)/mypy

unit: $(VENV)/.test ## Pure modules: no network, no Redis
	$(PYTEST) $(PARALLEL) tests/unit $(ARGS)

integration: $(VENV)/.test ## Against a real Redis
	$(PYTEST) $(PARALLEL) tests/integration $(ARGS)

containers: $(VENV)/.containers ## The same with Redis in Docker (REDIS_IMAGE=…); says why when there is no engine
	tests/support/engine.sh env REDIS=container $(PYTEST) $(PARALLEL) tests/integration $(ARGS) || [ $$? -eq 77 ]

integrations: $(VENV)/.integrations ## Agents of other frameworks, with those frameworks' own scripted models
	$(PYTEST) -n 2 tests/integrations $(ARGS)

critical: $(VENV)/.test ## The promises, on what real clients receive
	$(PYTEST) tests/mission_critical $(ARGS)

chaos: $(VENV)/.test ## Every fault, with a table of what it cost (ARGS="-m long": what make test leaves out)
	$(PYTEST) -n 2 --dist worksteal tests/chaos $(ARGS)

web: $(VENV)/.test $(WEB)/.installed ## The browser client in Node: its logic, its types, and real gateways behind faults
	cd $(WEB) && npm test --silent
	$(PYTEST) -n 2 $(WEB) $(ARGS)

conformance: $(VENV)/.test $(CONFORMANCE)/.installed ## The official clients of the other dialects, in Node, against real gateways
	$(PYTEST) -n 2 $(CONFORMANCE) $(ARGS)

browser: $(VENV)/.browser ## The chat page in a real headless Chromium
	$(PYTEST) -n 2 tests/browser $(ARGS)

compose: $(VENV)/.compose ## The images and the fleet of compose/ in Docker, gateways killed in turn; says why when there is no engine
	tests/support/engine.sh $(PYTEST) tests/compose $(ARGS) || [ $$? -eq 77 ]

up: ## A whole fleet in Docker (ARGS="--scale gateway=5", SERVICES="haproxy worker": these and what they need)
	@compose/secrets.sh
	$(COMPOSE) build
	$(COMPOSE) up --detach --wait $(ARGS) $(SERVICES)

down: ## Drain it and stop it; its data stay (ARGS=--volumes: not even those)
	$(COMPOSE) --profile '*' down $(ARGS)

bench: $(VENV)/.bench ## Measure this machine against a floor and peers; about ten minutes (ARGS="--quick", ARGS="delivery idle")
	$(BIN)/python -m tests.benchmarks $(ARGS)

docs: $(VENV)/.docs ## The documentation as a site, in site/, every link followed (ARGS=serve: look at it)
	$(PYTEST) tests/site
	$(BIN)/mkdocs $(or $(ARGS),build --strict)

audit: $(VENV)/.audit ## Look the pinned versions up in PyPI's advisories; needs pypi.org itself, not a mirror
	@$(BIN)/pip-audit --strict --progress-spinner off --no-deps --disable-pip -r constraints.txt $(ARGS) || { \
	  echo "A version that could not be looked up counts as a failure: nothing unknown passes." >&2; exit 1; }

clean: ## Remove what make made
	rm -rf $(VENV) $(WEB)/node_modules $(WEB)/.installed $(CONFORMANCE)/node_modules $(CONFORMANCE)/.installed build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -exec rm -rf {} +

# A stamp per set of packages: installed again only when what is asked for has changed.
# What an installation is made of, but for what is edited in place.
MADE_OF := pyproject.toml constraints.txt hatch_build.py gateway/_fastpath.c
INSTALL = @echo "Installing Runcast into $(VENV) ($(@F:.%=%)) …" && $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

$(VENV)/.run: $(MADE_OF) | $(BIN)/python
	$(INSTALL) -e . && touch $@

$(VENV)/.test: $(MADE_OF) | $(BIN)/python
	$(INSTALL) -e '.[test]' && touch $@ $(VENV)/.run

$(VENV)/.browser: $(MADE_OF) | $(BIN)/python
	$(INSTALL) -e '.[test,browser]' && touch $@ $(VENV)/.test $(VENV)/.run

$(VENV)/.compose: $(MADE_OF) | $(BIN)/python
	$(INSTALL) -e '.[test,compose]' && touch $@ $(VENV)/.test $(VENV)/.run

$(VENV)/.integrations: $(MADE_OF) | $(BIN)/python
	$(INSTALL) -e '.[test,integrations]' && touch $@ $(VENV)/.test $(VENV)/.run

$(VENV)/.containers: $(MADE_OF) | $(BIN)/python
	$(INSTALL) -e '.[test,containers]' && touch $@ $(VENV)/.test $(VENV)/.run

$(VENV)/.bench: $(MADE_OF) | $(BIN)/python
	$(INSTALL) -e '.[bench]' && touch $@ $(VENV)/.test $(VENV)/.run

$(VENV)/.docs: $(MADE_OF) | $(BIN)/python
	$(INSTALL) -e '.[test,docs]' && touch $@ $(VENV)/.test $(VENV)/.run

$(VENV)/.dev: $(MADE_OF) | $(BIN)/python
	$(INSTALL) -e '.[dev]' && touch $@ $(VENV)/.bench $(VENV)/.browser $(VENV)/.containers $(VENV)/.docs $(VENV)/.integrations $(VENV)/.test $(VENV)/.run

$(VENV)/.audit: $(MADE_OF) | $(BIN)/python
	$(INSTALL) -e '.[audit]' && touch $@

%/.installed: %/package-lock.json
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null && command -v npm >/dev/null || { \
	  echo "The tests of JavaScript clients need Node.js 20 or newer with npm: https://nodejs.org" >&2; exit 1; }
	@echo "Installing the tools of $* …" && cd $* && npm ci --silent --no-audit --no-fund && touch .installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Runcast needs Python 3.11 or newer, and '$(PYTHON)' is not. Choose one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv (as root)." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
