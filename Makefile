# Everything a fresh machine needs is Python >= 3.11, git and make. `make demo` and `make test` set the rest up, once.

VENV := .venv
PYTHON_IN_VENV := $(VENV)/bin/python
READY := $(VENV)/.p2pfusion-ready

# Which Python makes the environment; the first that is new enough if you do not say: make setup PYTHON=python3.12
PYTHON ?=
# torch comes first and pinned. Where the default is a large CUDA build, say where the CPU build is:
#   make setup TORCH_ARGUMENTS="--index-url URL"
TORCH := torch==2.13.0
TORCH_ARGUMENTS ?=

# Tests start hundreds of interpreters: what they compile is kept, whatever the caller's environment says.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(abspath $(VENV))/pycache

# How long `make soak` takes: seeds of the churn run with 64 nodes (an hour each of one core), of the ledger beside the
# protocol model, kills of real processes, seconds of busy cores.
SEEDS ?= 200
LEDGER_SEEDS ?= 1000
KILLS ?= 20
BUSY_S ?= 60

.PHONY: help setup demo test lint soak bench bench-peers clean

help:
	@echo "make setup   make .venv with everything in it"
	@echo "make demo    three nodes on this computer learn digits together"
	@echo "make test    the whole test suite"
	@echo "make lint    style and types"
	@echo "make soak    hours of faults: SEEDS=$(SEEDS) LEDGER_SEEDS=$(LEDGER_SEEDS) KILLS=$(KILLS) BUSY_S=$(BUSY_S)"
	@echo "make bench   measure this project: about an hour, writes bench/results and BENCHMARKS.md"
	@echo "make bench-peers  the same beside hivemind, Flower, p2pfl and gloo: about half an hour, 3 GB of packages"
	@echo "make clean   remove what these made"

setup: $(READY)

$(PYTHON_IN_VENV):
	@old=; bare=; \
	for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14; do \
		"$$python" -c 'import sys' 2>/dev/null || continue; \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { old="$$old $$python"; continue; }; \
		"$$python" -c 'import venv, ensurepip' 2>/dev/null || { bare="$$bare $$python"; continue; }; \
		echo "making $(VENV) with $$python"; \
		exec "$$python" -m venv $(VENV); \
	done; \
	if [ -n "$$bare" ]; then \
		echo "error:$$bare cannot make virtual environments (no ensurepip): on Debian or Ubuntu run" \
			"'apt-get install python3-venv', or name another Python with PYTHON=..." >&2; \
	else \
		echo "error: no Python >= 3.11 found$${old:+ (too old:$$old)}: install one, or name it with PYTHON=..." >&2; \
	fi; \
	exit 1

# Modules are compiled when they are first imported: most of torch's never are.
$(READY): pyproject.toml | $(PYTHON_IN_VENV)
	$(PYTHON_IN_VENV) -m pip install --quiet --no-compile $(TORCH_ARGUMENTS) "$(TORCH)"
	$(PYTHON_IN_VENV) -m pip install --quiet --no-compile --editable ".[dev]"
	@touch $(READY)

demo: setup
	$(PYTHON_IN_VENV) -m p2pfusion demo

TESTS := tests/sim $(filter-out tests/sim/ tests/__pycache__/,$(wildcard tests/*/)) $(wildcard tests/test_*.py)

# First what shares the cores well, one file to a worker, the long simulations before the rest, so that no worker is left
# alone with one of them at the end; then, one by one, what starts processes and listens to clocks,
# which mostly waits: the runs of simulated churn fill the time, and give way.
test: setup
	$(PYTHON_IN_VENV) -m pytest -q -m "not e2e" -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)
	nice -n 10 $(PYTHON_IN_VENV) -m pytest -q -s tests/e2e/test_churn.py & churn=$$!; \
	$(PYTHON_IN_VENV) -m pytest -q -m e2e --ignore tests/e2e/test_churn.py; others=$$?; \
	wait $$churn && exit $$others

lint: setup
	$(PYTHON_IN_VENV) -m ruff check .
	$(PYTHON_IN_VENV) -m ruff format --check .
	$(PYTHON_IN_VENV) -m mypy

soak: setup
	$(PYTHON_IN_VENV) -m tests.oracle.soak --seeds $(LEDGER_SEEDS) --alone
	P2PFUSION_KILLS=$(KILLS) P2PFUSION_BUSY_S=$(BUSY_S) P2PFUSION_CHURN_ROUNDS=110 P2PFUSION_CHURN_SEEDS=5 \
		$(PYTHON_IN_VENV) -m pytest -q -s --timeout 3600 \
		tests/e2e/test_restart.py tests/e2e/test_busy.py tests/e2e/test_churn.py
	P2PFUSION_SIM_SEEDS=4 $(PYTHON_IN_VENV) -m pytest -q --timeout 3600 \
		tests/sim/test_partition.py tests/sim/test_fast_rounds.py
	$(PYTHON_IN_VENV) -m p2pfusion simulate churn --task light --nodes 64 --seeds $(SEEDS) --out soak/

# One program after the other, each with a time limit; nothing is left running, also after Ctrl-C. Let it have the
# machine for itself. `python -m bench.run --only NAME ...` runs some of them, `--list` says which there are.
bench: setup
	$(PYTHON_IN_VENV) -m bench.run

bench-peers: setup
	TORCH_ARGUMENTS="$(TORCH_ARGUMENTS)" $(PYTHON_IN_VENV) -m bench.run --peers

clean:
	rm -rf $(VENV) .bench build dist soak .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
