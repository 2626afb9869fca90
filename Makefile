# Every target sets itself up: on a bare machine it makes its own .venv, and does so again when pyproject.toml changes.
#   make demo     both halves of the demonstration, on the smallest installation that can show them
#   make test     lint, then the tests without a framework, then once per Keras backend
#   make lint     ruff and mypy
#   make bench    how fast everything is here, beside other libraries
#   make native   build the native extension anew, as `make test` does when its sources have changed
#   make sanitize the tests of the extension, built with the address and undefined-behaviour sanitizers
# `make test PASSES="jax" ARGS="-k warp"` runs a part of it.

PYTHON ?= python3
PASSES ?= lint numpy tensorflow jax torch sanitize
ARGS ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
SMALL := $(VENV)/installed-small
FULL := $(VENV)/installed-full
NATIVE := $(VENV)/installed-native
NATIVE_SOURCES := $(wildcard native/CMakeLists.txt native/*/*) src/keramorph/backend/native.py
SANITIZED := build/sanitize
SANITIZE_FOR ?=
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check install

# One thread per worker, no framework's start-up chatter, and nobody's personal Keras configuration.
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 \
	TF_CPP_MIN_LOG_LEVEL=3 MPLBACKEND=Agg KERAS_HOME=$(CURDIR)/$(VENV)/keras

.PHONY: demo test lint bench native sanitize
.DELETE_ON_ERROR:

demo: $(SMALL)
	@TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/keramorph demo -o demo $(ARGS)

lint: $(FULL)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# Every pass runs even if an earlier one fails; the exit status is that of the whole.
test: $(NATIVE)
	@summary=""; status=0; \
	for pass in $(PASSES); do \
		printf '\n==== %s ====\n' "$$pass"; began=$$(date +%s); \
		case $$pass in \
			lint | sanitize) $(MAKE) --no-print-directory $$pass ;; \
			numpy) $(TEST_ENVIRONMENT) KERAMORPH_TEST_ENGINE=numpy \
				$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not keras" $(ARGS) ;; \
			*) $(TEST_ENVIRONMENT) KERAMORPH_TEST_ENGINE=$$pass KERAS_BACKEND=$$pass \
				$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "keras or engine" $(ARGS) ;; \
		esac && result=passed || { result=FAILED; status=1; }; \
		summary="$$summary$$(printf '%-12s %s in %s s' "$$pass" "$$result" "$$(( $$(date +%s) - began ))")\n"; \
	done; \
	printf '\n==== summary ====\n%b' "$$summary"; exit $$status

bench: $(NATIVE)
	@TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m benchmarks $(ARGS)

# The compiler's own programs keep what has not changed in build/. With no compiler, the package goes on without kernels.
native: $(FULL)
	@echo 'Building the native extension (about two minutes; less where little has changed) ...'
	@PATH="$(abspath $(BIN)):$$PATH" $(PIP) --no-deps --no-build-isolation -e .
	@touch $(NATIVE)

# The full installation has built it once already: then only if sources have changed since.
$(NATIVE): $(NATIVE_SOURCES) | $(FULL)
	@[ ! -e $@ ] && [ -z "$$(find $(NATIVE_SOURCES) -newer $(FULL))" ] || $(MAKE) --no-print-directory native
	@touch $@

# A package of links to the sources, with the sanitized extension among them. `-S` keeps the editable installation, which
# would come first, out of the way. The sanitizers' library must be loaded before Python is, and that of C++ with it, for
# its exceptions.
sanitize: $(FULL)
	@command -v c++ > /dev/null || { echo 'No C++ compiler: nothing to sanitize.'; exit 0; }; set -e; \
	$(BIN)/python -m cmake --version > /dev/null 2>&1 && cmake="$(BIN)/python -m cmake" || cmake=cmake; \
	PATH="$(abspath $(BIN)):$$PATH" $$cmake -S native -B $(SANITIZED) -G Ninja -DKERAMORPH_SANITIZE=ON '-DKERAMORPH_SANITIZE_FOR=$(SANITIZE_FOR)' \
		-DPython_EXECUTABLE=$(abspath $(BIN))/python > /dev/null; \
	PATH="$(abspath $(BIN)):$$PATH" $$cmake --build $(SANITIZED) > $(SANITIZED)/build.log 2>&1 \
		|| { tail -40 $(SANITIZED)/build.log; exit 1; }; \
	rm -rf $(SANITIZED)/package; mkdir -p $(SANITIZED)/package/keramorph; \
	ln -s $(CURDIR)/src/keramorph/* $(SANITIZED)/package/keramorph; \
	$$cmake --install $(SANITIZED) --component package --prefix $(SANITIZED)/package/keramorph > /dev/null; \
	$(TEST_ENVIRONMENT) KERAMORPH_TEST_ENGINE=numpy \
		LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
		PYTHONPATH=$(SANITIZED)/package:$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
		$(BIN)/python -S -m pytest -q -p no:cacheprovider tests/test_native.py tests/test_native_extension.py $(ARGS)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Keramorph needs Python 3.11 or newer: name one with `make PYTHON=python3.12 ...`.' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(SMALL): pyproject.toml | $(BIN)/python
	@[ -e $(FULL) ] || { echo 'Installing Keramorph with JAX into $(VENV) (about three minutes, once) ...' && $(PIP) -e '.[jax]'; }
	@touch $@

# PyTorch first, in its CPU build: what comes after it then finds the requirement met. Where pip's own index offers a
# CUDA build under this number, point PIP_EXTRA_INDEX_URL at PyTorch's index of CPU builds; the tests pass with either.
$(FULL): pyproject.toml | $(BIN)/python
	@echo 'Installing Keramorph with TensorFlow, JAX and PyTorch into $(VENV) (about six minutes, once) ...'
	@$(PIP) 'torch==2.13.0'
	@$(PIP) -e '.[tensorflow,jax,torch,dev]'
	@touch $@
