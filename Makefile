# make demo    install into .venv and fine-tune the tiny model on the demo clips
# make test    install into .venv and run the tests
# make test-all   every case of every test (an hour or more on 2 cores)
# make test-cuda  the whole matrix of settings on the software CUDA device (needs g++, some minutes)
# make gpu     test and measure on this machine's GPU, nine minutes a call (see python -m benchmarks.gpu --help)
# make lint    ruff and mypy
# make docs    the documentation as a static site, into site/
PYTHON ?= python3
BIN := .venv/bin
# A process of one thread for each core, and each file of tests in one of them.
PARALLEL := OMP_NUM_THREADS=1
SPREAD := -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all test-cuda unit gpu lint docs clean

demo: .venv/installed
	$(BIN)/python -m cogvx_exp.train

test: .venv/installed
	$(PARALLEL) $(BIN)/python -m pytest $(SPREAD)

test-all: .venv/installed
	$(PARALLEL) $(BIN)/python -m pytest $(SPREAD) -m ""

test-cuda: .venv/installed
	$(PARALLEL) $(BIN)/python -m pytest $(SPREAD) -m "" tests/integration/test_software_cuda.py \
		$(wildcard tests/integration/test_cuda_*.py)

unit: .venv/installed
	$(BIN)/python -m pytest tests/unit

# Nothing is installed: on a machine without a network, PYTHON has the packages.
gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; say which: make PYTHON=python3.12"; exit 1; }
	@echo "Installing into .venv (a minute or two) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

clean:
	rm -rf .venv build dist site *.egg-info
