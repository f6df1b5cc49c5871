# `make help` lists the targets. Each one first sets up .venv (quick when nothing changed; see tools/setup.sh).
# PYTHON=/path/to/python chooses the interpreter, ARGS="..." is handed on to pytest, the demo or the benchmarks.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
ARGS ?=
CODE := $(wildcard src tests bench examples)
# and how many at a time: more than there are processors, as most tests wait for a clock, a disk or a server
PYTEST := $(BIN)/python -m pytest --dist loadgroup -n
BESIDE := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
FAST := not server and not slow and not fault

export PYTHON
# Without cached bytecode pytest would rewrite the asserts of every module again, for each of its workers.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test check static bench proto lock clean

help: ## what can be made here
	@echo "Perdure: make TARGET"
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1\t\2/p' Makefile | expand -t 12

setup: ## make .venv, or bring it up to date
	@sh tools/setup.sh

demo: setup ## ingest real documents, kill the worker in the middle, ask questions
	@$(BIN)/python examples/demo.py $(ARGS)

test: setup ## every test, those with real servers and the slow ones too
	@sh tools/servers.sh
	@$(PYTEST) $(BESIDE) $(ARGS)

check: static ## formatting, lint, floors, types and the fast tests, in under a minute
	@$(PYTEST) 4 -m "$(FAST)" $(ARGS)

static: setup ## the checks of `make check` without its tests
	@$(BIN)/ruff format --check --quiet --output-format concise $(CODE) || { echo "perdure: run '$(BIN)/ruff format $(CODE)'" >&2; exit 1; }
	@$(BIN)/ruff check --quiet --output-format concise $(CODE)
	@$(BIN)/lint-imports --no-logo --cache-dir build/import-linter
	@$(BIN)/mypy $(CODE)

bench: setup ## throughput and memory of the whole way, beside its parts
	@$(BIN)/python -m bench $(ARGS)

proto: setup ## build the Python code of src/perdure/grpc/v1/perdure.proto
	@sh tools/proto.sh

lock: setup ## resolve requirements/*.txt anew (needs a package index)
	@sh tools/lock.sh

clean: ## remove .venv, caches and build output
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find $(CODE) -type d -name __pycache__ -prune -exec rm -rf {} +
