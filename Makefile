# `make` alone lists the targets. Each makes .venv itself when it is missing or older than pyproject.toml.
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check format clean
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 12

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(READY)  ## install, train on the embedded images, print the metrics, write heatmaps
	$(BIN)/lit-ad fit --config configs/demo.yaml

# Two processes of one thread each: more threads would only wait for one another.
TEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

test: $(READY)  ## the tests, under 8 minutes on two cores
	$(TEST)

test-slow: $(READY)  ## the long tests as well
	$(TEST) -m 'slow or not slow' -o timeout=3600

check: $(READY)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_imports.py

format: $(READY)  ## put the code in order
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove what the other targets made (runs are kept)
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
