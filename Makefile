# make demo    run the whole method on the embedded world
# make real    run SGT on real models and Spider's real rows: SGT_REAL_DATA, and SGT_REAL_MODELS or a hub; QUICK=1 is short
# make test    run the tests, without the network
# make check   check format, lint, types, layers, doctests, words, names, documentation
# make test-matrix   run some tests on the oldest and the newest versions that pyproject.toml allows; ROWS= selects
# make bench   run the benchmarks against their bars; BENCH="sampling serving" selects
# make compatibility   run the tests that docs/compatibility.md lists, and write the page
# make pictures   make the README's pictures: a quick demonstration on a terminal, and its report
# Each command installs .venv on its first call only.

PYTHON ?= python3.11
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Only `make real` may use a model hub, if the caller's environment allows it.
CALLERS := HF_HUB_OFFLINE='$(HF_HUB_OFFLINE)' TRANSFORMERS_OFFLINE='$(TRANSFORMERS_OFFLINE)' \
    HF_DATASETS_OFFLINE='$(HF_DATASETS_OFFLINE)'

# Other commands need no model hub, telemetry server or price list from the network.
export HF_HUB_OFFLINE := 1
export HF_DATASETS_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export LITELLM_LOCAL_MODEL_COST_MAP := True
export TOKENIZERS_PARALLELISM := false
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: help install demo real test test-slow test-all test-matrix check format bench compatibility pictures clean

help:
	@sed -n 's/^# make/make/p' Makefile

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dev]'
	$(PIP) --editable '.[gym]' || echo "reasoning-gym was not installed (it compiles C): the tests of its task are skipped."
	touch $@

demo: $(INSTALLED)
	@echo "The whole method on a full world: ten minutes or more. sgt demo --quick takes a minute and a half."
	$(BIN)/sgt demo --log-dir runs/demo

real: $(INSTALLED)
	$(CALLERS) $(BIN)/python benchmarks/real.py $(if $(QUICK),--quick) $(REAL)

# Single-threaded processes are fastest for many small models; a file's tests stay in one process. Bytecode is written,
# whatever the caller's environment says: the processes that tests start would compile both packages again.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

test: $(INSTALLED)
	$(PYTEST) --dist loadfile -m "not slow"

test-slow: $(INSTALLED)
	$(PYTEST) --dist loadfile -m slow

test-all: test test-slow

test-matrix:
	$(PYTHON) tests/matrix.py $(ROWS)

WITHOUT_GYM = $(shell $(BIN)/python -c "import reasoning_gym" 2> /dev/null || echo --ignore=optimizers/tasks/reasoning_gym.py)

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --doctest-modules sgt_modules optimizers $(WITHOUT_GYM)
	$(BIN)/python -m pytest tests/package/test_words.py tests/package/test_names.py
	$(BIN)/mkdocs build --strict

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)
	$(BIN)/python benchmarks/run_all.py $(BENCH)

compatibility: $(INSTALLED)
	$(BIN)/python -m pytest tests --compatibility docs/compatibility.md

pictures: $(INSTALLED)
	$(BIN)/python docs/pictures.py

clean:
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist site
