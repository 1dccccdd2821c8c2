# `make` alone lists the targets. Most targets make .venv first, if it is missing or older than pyproject.toml.
.DEFAULT_GOAL := help
.PHONY: help demo test test-fast fast-one fast-two test-one test-two test-slow coverage lowest user package cpp images gpu docs lint check format clean
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 12

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip  # on Windows, pip.exe cannot replace itself
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	-@$(BIN)/python -m compileall -qq -j 0 .venv/lib  # without it, PYTHONDONTWRITEBYTECODE makes each start compile torch
	@touch $@

demo: $(READY)  ## install, train on the embedded images, print the metrics, write heatmaps
	$(BIN)/lit-ad fit --config configs/demo.yaml

# The tests run in two processes of one thread each, which take about the same time; more threads would only wait for one
# another. Not by pytest-xdist: twice it lost a worker and then waited for it without end.
ONE := tests/benchmark tests/commands tests/deploy tests/detector tests/evaluation tests/lightning_cli tests/training \
       tests/features tests/teachers tests/test_faults.py tests/test_precision.py
TEST := OMP_NUM_THREADS=1 $(BIN)/pytest

test: $(READY)  ## run the tests; about 10 minutes on two cores
	@$(MAKE) --no-print-directory --jobs 2 test-one test-two

# The tests of the packages that train nothing, without the slowest files: less than 90 s on two cores.
SLOWEST := tests/data/sources/test_demo.py tests/data/audit/test_inspection.py tests/data/audit/test_outliers.py \
           tests/data/test_datamodule.py
FAST_ONE := tests/image tests/metrics tests/features tests/lightning_cli/test_parser.py \
            tests/lightning_cli/test_run_words.py tests/lightning_cli/test_settings.py \
            $(addprefix tests/detector/test_,card.py decision.py guarantee.py painter.py regions.py run_files.py scoring.py) \
            $(addprefix tests/methods/test_,distances.py maps.py)
FAST_TWO := $(filter-out $(SLOWEST),$(wildcard tests/data/test_*.py tests/data/*/test_*.py)) \
            $(addprefix tests/evaluation/test_,picture_names.py protocols.py rows.py) tests/benchmark/test_statistics.py \
            $(addprefix tests/test_,batch.py counts.py errors.py files.py imports.py integrity.py machine.py mirror.py names.py \
            packaging.py private_names.py public_names.py shipped_configs.py threads.py)

test-fast: $(READY)  ## run the tests that train nothing; less than 90 s on two cores
	@$(MAKE) --no-print-directory --jobs 2 fast-one fast-two

fast-one:
	$(TEST) $(FAST_ONE)

fast-two:
	$(TEST) $(FAST_TWO)

test-one:
	$(TEST) $(MARK) $(ONE)

test-two:
	$(TEST) $(MARK) tests $(addprefix --ignore ,$(ONE))

test-slow: $(READY)  ## run all tests, also the slow ones
	@$(MAKE) --no-print-directory --jobs 2 test-one test-two MARK="-m 'slow or not slow' -o timeout=3600"

coverage: $(READY)  ## list the lines of lit_ad that no test runs; TESTS=FILES for some tests; about 30 minutes
	$(TEST) --cov=lit_ad --cov-report=term-missing:skip-covered $(TESTS)

lowest:  ## run the fast tests with the lowest versions that pyproject.toml allows, in .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest --resolution lowest-direct --editable '.[dev]'
	@$(MAKE) --no-print-directory --jobs 2 fast-one fast-two BIN=.venv-lowest/bin

user: $(READY)  ## run a user's commands on a copy of the committed tree alone; about 6 minutes
	$(BIN)/python .ci/user.py

gpu:  ## on a machine with a CUDA GPU: run its tests, and measure training and judging; about 8 minutes
	$(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu.py

cpp: $(READY)  ## build examples/cpp and compare it with Detector; skipped without the packages of .ci/cpp.sh
	$(BIN)/pytest -m slow -rs tests/test_cpp.py

images: $(READY)  ## build the images of docker/, train the demo in one and serve it in the other
	$(BIN)/python .ci/images.py

package: $(READY)  ## build wheel and sdist in dist/, check them, and test them in a bare environment; about 3 minutes
	$(BIN)/python .ci/package.py

docs: $(READY)  ## build the documentation site in site/; fails on broken links
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "site/ has the pages: python3 -m http.server --directory site shows them at http://localhost:8000"

lint: $(READY)  ## check format, lint, types and spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell

check: lint  ## lint, and test the direction of imports
	$(BIN)/pytest tests/test_imports.py tests/test_encodings.py

format: $(READY)  ## format the code, and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the files that other targets made, except runs
	rm -rf .venv .venv-lowest build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
