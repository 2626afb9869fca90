# Every target sets itself up: on a bare machine it makes its own .venv, and does so again when pyproject.toml changes.
#   make demo     both halves of the demonstration, on the smallest installation that can show them
#   make test     lint, then the tests without a framework, then once per Keras backend
#   make lint     ruff and mypy
#   make bench    how long a warp takes here, beside other libraries
# `make test PASSES="jax" ARGS="-k warp"` runs a part of it.

PYTHON ?= python3
PASSES ?= lint numpy tensorflow jax torch
ARGS ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
SMALL := $(VENV)/installed-small
FULL := $(VENV)/installed-full
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check install

# One thread per worker, no framework's start-up chatter, and nobody's personal Keras configuration.
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 \
	TF_CPP_MIN_LOG_LEVEL=3 MPLBACKEND=Agg KERAS_HOME=$(CURDIR)/$(VENV)/keras

.PHONY: demo test lint bench
.DELETE_ON_ERROR:

demo: $(SMALL)
	@TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/keramorph demo -o demo $(ARGS)

lint: $(FULL)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# Every pass runs even if an earlier one fails; the exit status is that of the whole.
test: $(FULL)
	@summary=""; status=0; \
	for pass in $(PASSES); do \
		printf '\n==== %s ====\n' "$$pass"; began=$$(date +%s); \
		case $$pass in \
			lint) $(MAKE) --no-print-directory lint ;; \
			numpy) $(TEST_ENVIRONMENT) KERAMORPH_TEST_ENGINE=numpy \
				$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not keras" $(ARGS) ;; \
			*) $(TEST_ENVIRONMENT) KERAMORPH_TEST_ENGINE=$$pass KERAS_BACKEND=$$pass \
				$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "keras or engine" $(ARGS) ;; \
		esac && result=passed || { result=FAILED; status=1; }; \
		summary="$$summary$$(printf '%-12s %s in %s s' "$$pass" "$$result" "$$(( $$(date +%s) - began ))")\n"; \
	done; \
	printf '\n==== summary ====\n%b' "$$summary"; exit $$status

bench: $(FULL)
	@TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python benchmarks/run.py $(ARGS)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Keramorph needs Python 3.11 or newer: name one with `make PYTHON=python3.12 ...`.' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(SMALL): pyproject.toml | $(BIN)/python
	@[ -e $(FULL) ] || { echo 'Installing Keramorph with JAX into $(VENV) (about a minute, once) ...' && $(PIP) -e '.[jax]'; }
	@touch $@

# PyTorch first, in its CPU build: what comes after it then finds the requirement met. Where pip's own index offers a
# CUDA build under this number, point PIP_EXTRA_INDEX_URL at PyTorch's index of CPU builds; the tests pass with either.
$(FULL): pyproject.toml | $(BIN)/python
	@echo 'Installing Keramorph with TensorFlow, JAX and PyTorch into $(VENV) (about three minutes, once) ...'
	@$(PIP) 'torch==2.13.0'
	@$(PIP) -e '.[tensorflow,jax,torch,dev]'
	@touch $@
