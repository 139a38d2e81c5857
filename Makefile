# One word a chore. Everything runs from .venv, which `make setup` builds from requirements.lock.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
AISLE_HOME ?= $(CURDIR)/.aisle
DEMO_HOME := $(CURDIR)/.aisle/demo
RUN := .venv/bin/python
UV_VERSION := 0.13.8

# Nothing that we ship reports home.
export BENTOML_DO_NOT_TRACK := true
export DO_NOT_TRACK := 1
export ANONYMIZED_TELEMETRY := False
export MLFLOW_DISABLE_TELEMETRY := true
export TOKENIZERS_PARALLELISM := false
export AISLE_HOME
export BENTOML_HOME ?= $(AISLE_HOME)/bentoml

.PHONY: help setup demo loop train ui serve watch test test-long lint format bench bench-quality fuzz soak kill stubs lock clean

help: ## list the chores
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/installed ## build .venv from requirements.lock

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Aisle needs Python 3.11, $(PYTHON) is " + sys.version.split()[0] + "; run make PYTHON=/path/to/python3.11")'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	.venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python --require-hashes -r requirements.lock
	.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	touch $@

demo: setup ## the main job: catalogue to served prediction (EXIT=1 stops at the end)
	AISLE_HOME=$(DEMO_HOME) BENTOML_HOME=$(DEMO_HOME)/bentoml $(RUN) -m benchmarks.demo $(if $(EXIT),--exit)

loop: setup ## after make demo: drift, alarm, labels, retraining, promotion
	AISLE_HOME=$(DEMO_HOME) BENTOML_HOME=$(DEMO_HOME)/bentoml $(RUN) -m benchmarks.loop

train: setup ## train and register on CATALOG=<folder or file>
	@test -n "$(CATALOG)" || { echo 'make train: no CATALOG; run make train CATALOG=<folder or file>' >&2; exit 2; }
	$(RUN) -m training run "$(CATALOG)" $(ARGS)

ui: setup ## MLflow's pages about every training run, on 127.0.0.1:5000
	$(RUN) -m training ui $(ARGS)

watch: setup ## watch what is answered: drift, quality, metrics on port 9101
	$(RUN) -m monitoring watch

serve: setup ## serve the newest classifier of AISLE_HOME
	$(RUN) -m service serve

test: setup lint ## ruff, mypy and the tests (minutes each: make test-long)
	$(RUN) -m pytest -n 2 --dist loadfile $(ARGS)

test-long: setup ## the tests that take minutes each, one after the other
	$(RUN) -m pytest -n 0 -m long $(ARGS)

lint: setup ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: setup ## rewrite the code in the house's format
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: setup ## every figure that the README quotes
	$(RUN) -m benchmarks.serving $(ARGS)

fuzz: setup ## after make demo: 10,000 hostile requests on each door
	AISLE_HOME=$(DEMO_HOME) BENTOML_HOME=$(DEMO_HOME)/bentoml $(RUN) -m benchmarks.fuzz $(ARGS)

soak: setup ## after make demo: MINUTES=30 of mixed load; memory must stay level
	AISLE_HOME=$(DEMO_HOME) BENTOML_HOME=$(DEMO_HOME)/bentoml $(RUN) -m benchmarks.soak --minutes $(or $(MINUTES),30)

kill: setup ## after make demo: encode, fit and tune-image, each killed ten times, end with the same bytes
	AISLE_HOME=$(DEMO_HOME) BENTOML_HOME=$(DEMO_HOME)/bentoml $(RUN) -m benchmarks.kill $(ARGS)

bench-quality: setup ## every way of fusing on DATA=<folder or file>
	@test -n "$(DATA)" || { echo 'make bench-quality: no DATA; run make bench-quality DATA=<folder or file>' >&2; exit 2; }
	$(RUN) -m benchmarks.quality "$(DATA)" $(ARGS)

stubs: setup ## compile service/protos/*.proto
	$(RUN) -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. service/protos/*.proto

lock: setup ## recompile requirements.lock from requirements.txt
	.venv/bin/uv pip compile requirements.txt --python-version 3.11 --generate-hashes --quiet \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file requirements.lock

clean: ## remove what Aisle made here, but not .venv
	rm -rf .aisle out .pytest_cache .mypy_cache .ruff_cache .hypothesis
