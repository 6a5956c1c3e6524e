# Needs make and Python >= 3.11, nothing else: every target first sets up what it needs, in .venv. (`up` needs Docker,
# `model` spin and a C compiler; both say so.)
# `make demo PYTHON=python3.12` takes another Python; ARGS reaches the command: `make test ARGS="-k drained -x"`.

.DEFAULT_GOAL := help
SHELL := /bin/sh

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
ARGS ?=
# Tests wait more than they compute. JOBS=0 runs them one after the other, as a debugger wants it.
JOBS ?= 3

# Containers and a browser are asked for by their marks (make test ARGS="-m compose"); CI runs everything.
MARKS := $(if $(CI),,-m "not compose and not browser")

.PHONY: help demo test lint model up down bench chaos constraints clean

help:  ## show every target and what it does
	@awk -F ':.*##[ ]*' '/^[a-z][a-z-]*:.*##/ {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.local  ## census of Python's standard library: several producers, workers, a checked result
	$(BIN)/lastcall demo $(ARGS)

test: $(VENV)/.dev  ## run the tests (all but those marked compose and browser)
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(MARKS) $(ARGS)

lint: $(VENV)/.dev  ## ruff (rules and format) and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

model:  ## have spin check the model of how a queue ends, and find the errors planted in it (docs/model)
	@docs/model/check $(ARGS)

up:  ## build and start the service in containers, wait until it is healthy, and feed it the demo's producers
	@$(need_compose)
	docker compose build
	docker compose up --detach --wait $(ARGS) worker worker-io flower
	docker compose up --detach $(ARGS)  # the producers end by themselves, which --wait would call a failure

down:  ## stop the service's containers (ARGS=--volumes: and forget their data)
	@$(need_compose)
	docker compose --profile '*' down --remove-orphans $(ARGS)

bench: $(VENV)/.dev  ## compare with raw Celery, huey and multiprocessing.Pool
	$(BIN)/python -m benchmarks $(ARGS)

chaos: $(VENV)/.dev  ## random jobs under random faults, each checked (ARGS="--jobs 300", --seed, --celery, --json FILE)
	$(BIN)/python -m tests.chaos $(ARGS)

constraints:  ## write constraints.txt anew: the newest versions that work together on Python 3.11
	@$(need_python)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "make constraints: expected Python 3.11 (what the oldest supported Python resolves to serves the newer ones too), got $$($(PYTHON) -V): name one with PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)-constraints
	@# async-timeout: redis asks for it on Python 3.11.0 to 3.11.2 alone
	$(VENV)-constraints/bin/python -m pip install --quiet --disable-pip-version-check '.[dev,gevent]' async-timeout
	@{ echo "# The versions that lastcall is tested with, on Python 3.11 to 3.13. Written by: make constraints"; \
	   $(VENV)-constraints/bin/python -m pip freeze --exclude lastcall --exclude setuptools --exclude wheel; } >constraints.txt.new
	@if grep -nE '://|^-|@' constraints.txt.new; then echo "make constraints: expected only name==version lines, got the above" >&2; exit 1; fi
	@mv constraints.txt.new constraints.txt && rm -rf $(VENV)-constraints
	@echo "constraints.txt: $$(grep -c == constraints.txt) versions"

clean:  ## remove .venv, caches and builds
	rm -rf $(VENV) $(VENV)-constraints constraints.txt.new build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what the targets stand on -------------------------------------------------------------------------------------

define need_python
command -v $(PYTHON) >/dev/null 2>&1 || { \
  echo "lastcall needs Python >= 3.11 and found no \"$(PYTHON)\": install it, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }; \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
  echo "lastcall needs Python >= 3.11, and \"$(PYTHON)\" is $$($(PYTHON) -V 2>&1): name a newer one: make PYTHON=python3.13" >&2; exit 1; }; \
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
  echo "$$($(PYTHON) -V) has no venv or ensurepip, which make a virtual environment: install them (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
endef

define need_compose
docker compose version >/dev/null 2>&1 || { \
  echo "this target needs Docker with Compose v2, and \"docker compose version\" failed: install Docker Engine and its compose plugin" >&2; exit 1; }
endef

$(VENV)/.made:
	@$(need_python)
	@echo "making $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# Only what the demo needs: a stranger's first command should not wait for linters.
$(VENV)/.local: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing lastcall[local] into $(VENV), once"
	@$(PIP_INSTALL) --constraint constraints.txt --editable '.[local]'
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing lastcall[dev,gevent] into $(VENV), once"
	@$(PIP_INSTALL) --constraint constraints.txt --editable '.[dev,gevent]'
	@touch $@ $(VENV)/.local
