# make train and make test do all the set-up on a bare machine with Python 3.11-3.13 and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install train test lint benchmark

install: $(STAMP)

# torch first and pinned: a plain torch requirement resolved first pulls gigabytes of CUDA packages.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] < (3, 14) else "Python 3.11, 3.12 or 3.13 is needed; name one with make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[netket,benchmarks,scan,crystal,dev]'
	touch $@

train: $(STAMP)
	$(BIN)/python train.py

# Two processes of one thread each: most tests are many small steps, or wait for a program. Bytecode
# is written even where the environment forbids it: a hundred programs would compile it all again.
test: $(STAMP)
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile

# Against exact diagonalisation, twice the default steps;
# BENCHMARK="--instances rydberg-4x4 --models rnn" chooses.
benchmark: $(STAMP)
	$(BIN)/python -m benchmarks.vs_exact --set train.steps=400 $(BENCHMARK)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
