# make setup, test, lint, demo: everything runs from .venv, which `setup` makes.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-gpu lint bench bench-gpu clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready ## make .venv and install pinned dependencies; a second call does nothing

.venv/.ready: pyproject.toml constraints.txt
	@PYTHON="$(PYTHON)" sh .ci/setup
	@touch $@

demo: setup ## example masks to photographs with the shipped weights, and a gallery
	$(BIN)/spade examples
	$(BIN)/spade render masks/ --samples 4

test: setup ## the whole test suite, packaging and browser included
	$(BIN)/python -m pytest -m "not gpu"

test-gpu: setup ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

lint: setup ## ruff, mypy strict, the import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup ## speed of rendering, plain and fast, and of the whole command; half an hour
	$(BIN)/python tests/bench/bench_render.py
	$(BIN)/python tests/bench/bench_tiles.py

bench-gpu: setup ## the rows that need a CUDA device: rendering, training, ONNX Runtime and TensorRT
	$(BIN)/python tests/bench/bench_render.py gpu
	$(BIN)/python tests/bench/bench_training.py
	$(BIN)/python tests/bench/bench_backends.py

clean: ## remove .venv, caches and build folders; keeps masks, renders, runs and data
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find spadecli tests -name __pycache__ -type d -prune -exec rm -rf {} +
