# Everything runs in .venv, which is made from requirements.lock when it is not there or out of date.
#
#   make demo        the whole job on this machine: real processes, model and data
#   make test        the tests, without those that take minutes each
#   make test-slow   those that take minutes each
#   make lint        ruff, mypy --strict, the import contract, the generated stubs
#   make clean       remove .venv and demo runs
#
# PYTHON chooses the interpreter (3.11 or newer); TESTS what to test; DEMO options of `secagg demo`. pip reads its
# usual settings: an index of CPU builds of torch, given as PIP_EXTRA_INDEX_URL, saves gigabytes of GPU libraries.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TESTS ?= tests
DEMO ?=
CANDIDATES := python3 python3.13 python3.12 python3.11
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $$p && break; done)

.PHONY: demo test test-slow lint setup clean help

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -11

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or newer is needed; none was found. Name one: make PYTHON=..." >&2; exit 1; fi
	@echo "== .venv: $$($(PYTHON) --version), from $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) || { echo "the venv module is missing (on Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "== .venv: installing $$(grep -c == requirements.lock) pinned packages; the first time this takes minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -r requirements.lock
	@echo "== .venv: installing secagg from this folder"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY)
	@echo "== demo: everything of it goes to runs/demo"
	@$(BIN)/secagg demo --out runs/demo --replace $(DEMO)

test: $(READY)
	@echo "== tests: $(TESTS), without the slow ones"
	@$(BIN)/python -m pytest -n auto -q -m "not slow" $(TESTS)

test-slow: $(READY)
	@echo "== tests: the slow ones"
	@$(BIN)/python -m pytest -q -m slow $(TESTS)

lint: $(READY)
	@echo "== ruff"
	@$(BIN)/ruff check .
	@echo "== mypy --strict"
	@$(BIN)/mypy
	@echo "== import contract"
	@$(BIN)/lint-imports
	@echo "== generated stubs"
	@$(BIN)/python protos/generate.py --check

clean:
	rm -rf $(VENV) runs
