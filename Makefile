# `make` alone lists what there is.
#
# PYTHON  the interpreter that .venv is made with: make r1zero PYTHON=python3.12
# ARGS    goes to the command: make r1zero ARGS="seed=2 loss.beta=0.01", make test ARGS="tests/loss -x"
# TORCH   options for the installation of torch: PyPI's build for Linux is the one for NVIDIA's GPUs; without one
#         TORCH="--index-url URL" with PyTorch's index of CPU builds is a smaller download

PYTHON ?= python3
ARGS ?=
TORCH ?=
WORKERS ?= 2

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help r1zero test lint format bench

help: ## list these commands
	@sed -n 's/^\([a-z0-9]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

r1zero: .venv/.installed ## R1-Zero on the shipped tiny base, about three minutes on two cores
	$(BIN)/python -m r1lab.train experiment=r1zero $(ARGS)

test: .venv/.installed-dev ## the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) $(ARGS)

lint: .venv/.installed-dev ## ruff's checks, and its format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.installed-dev ## put imports and format right
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .

bench: .venv/.installed-bench ## a GRPO step beside TRL's, into tests/benchmark/results
	$(BIN)/python -m tests.benchmark.bench_trl $(ARGS)

# Each stamp says that what pyproject.toml and constraints.txt ask for is installed.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "r1lab needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "installing into .venv, which takes a minute or more, once"
	@$(PYTHON) -m venv .venv
	@$(INSTALL) $(TORCH) torch
	@$(INSTALL) --editable .
	@touch $@

.venv/.installed-%: .venv/.installed
	@echo "installing what '$*' needs"
	@$(INSTALL) --editable '.[$*]'
	@touch $@
