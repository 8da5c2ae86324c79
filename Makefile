# make setup, test, lint, demo: everything runs from .venv, which `setup` creates.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-gpu lint bench bench-gpu clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready ## create .venv and install pinned dependencies; does nothing if it is up to date

.venv/.ready: pyproject.toml constraints.txt
	@PYTHON="$(PYTHON)" sh .ci/setup
	@touch $@

demo: setup ## render example masks with the shipped weights, with a gallery
	$(BIN)/spade examples
	$(BIN)/spade render masks/ --samples 4

test: setup ## run the tests, in less than ten minutes on two cores
	$(BIN)/python -m pytest

test-all: setup ## run the slow tests too: packaging, README, browser, several processes
	$(BIN)/python -m pytest -m "not gpu"

test-gpu: setup ## run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

lint: setup ## run ruff, mypy (strict) and the import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup ## measure rendering: plain and fast, tiles, the whole command; takes half an hour
	$(BIN)/python tests/bench/bench_render.py
	$(BIN)/python tests/bench/bench_tiles.py

bench-gpu: setup ## measure what needs a CUDA device: rendering, training, ONNX Runtime and TensorRT
	$(BIN)/python tests/bench/bench_render.py gpu
	$(BIN)/python tests/bench/bench_training.py
	$(BIN)/python tests/bench/bench_backends.py

clean: ## remove .venv, caches and build folders; keeps masks, renders, runs and data
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find spadecli tests -name __pycache__ -type d -prune -exec rm -rf {} +
