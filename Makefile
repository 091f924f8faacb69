# Needs make and Python 3.11 or newer; everything else comes, by hash, into .venv.
#
#   make serve          a hub with a demo page, on http://127.0.0.1:8003; ARGS="--port 9000", PORT=9000
#   make test           every test that this machine can run, in up to four processes; ARGS="-k resume": some, in one
#   make lint           ruff and mypy --strict
#   make bench          our figures beside our peers', in one run; ARGS says which row

SHELL  := /bin/sh
PYTHON ?= python3
BIN    := .venv/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help serve test lint format bench lock schema install clean
# One installation at a time, however many jobs make was given.
.NOTPARALLEL:

help:
	@sed -n 's/^#   //p' Makefile

serve: .venv/runtime
	@exec $(BIN)/carillon serve $(ARGS)

test: .venv/dev
	$(BIN)/python -m pytest $(or $(ARGS),--numprocesses=logical --maxprocesses=4)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/dev
	$(BIN)/python -m benchmarks $(ARGS)

# Everything that tests and lint need.
install: .venv/dev

# Both locks, for every platform and Python; versions move with UPGRADE=--upgrade.
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
        --no-annotate --custom-compile-command "make lock" --group pyproject.toml:build pyproject.toml
lock: .venv/dev
	$(LOCK) $(UPGRADE) --output-file requirements.txt
	$(LOCK) $(UPGRADE) --extra dev --constraint requirements.txt --output-file requirements-dev.txt

# The sum of the migrations, to be read.
schema: .venv/dev
	$(BIN)/python -m tests.schema

clean:
	rm -rf .venv .cache build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage *.egg-info

# Stamps: what was installed from which lock. The lock for development holds the other one.
.venv/runtime: requirements.txt pyproject.toml | .venv/bin/python
	@echo "Installing Carillon into .venv (once; needs the network) ..."
	@$(PIP) install --require-hashes -r requirements.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev: requirements-dev.txt requirements.txt pyproject.toml | .venv/bin/python
	@echo "Installing Carillon and its tests into .venv (once; needs the network) ..."
	@$(PIP) install --require-hashes -r requirements-dev.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch .venv/runtime $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Carillon needs Python 3.11 or newer; name it: make PYTHON=python3.12")'
	@$(PYTHON) -m venv .venv
