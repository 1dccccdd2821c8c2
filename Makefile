# `make` alone lists the targets. Each makes .venv itself when it is missing or older than pyproject.toml.
.DEFAULT_GOAL := help
.PHONY: help demo test test-one test-two test-slow user package check format clean
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

# Two processes of one thread each, of about the same time: more threads would only wait for one another. No pytest-xdist:
# twice it lost a worker, and then waited for it for ever.
ONE := tests/benchmark tests/commands tests/deploy tests/detector tests/evaluation tests/lightning_cli tests/training \
       tests/features tests/teachers tests/test_faults.py tests/test_precision.py
TEST := OMP_NUM_THREADS=1 $(BIN)/pytest

test: $(READY)  ## the tests, about 10 minutes on two cores
	@$(MAKE) --no-print-directory --jobs 2 test-one test-two

test-one:
	$(TEST) $(MARK) $(ONE)

test-two:
	$(TEST) $(MARK) tests $(addprefix --ignore ,$(ONE))

test-slow: $(READY)  ## the long tests as well
	@$(MAKE) --no-print-directory --jobs 2 test-one test-two MARK="-m 'slow or not slow' -o timeout=3600"

user: $(READY)  ## what a user runs, on a copy of the committed tree alone; about 6 minutes
	$(BIN)/python .ci/user.py

package: $(READY)  ## wheel and sdist in dist/, checked, and tried in a bare environment; about 3 minutes
	$(BIN)/python .ci/package.py

check: $(READY)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_imports.py tests/test_encodings.py

format: $(READY)  ## put the code in order
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove what the other targets made (runs are kept)
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
