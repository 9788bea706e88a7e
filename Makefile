# Everything runs in .venv, so this works where the system's Python is externally managed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CRATE := src/_fastpath
NATIVE := $(wildcard $(CRATE)/*.pyx $(CRATE)/*.pxi $(CRATE)/*.pxd src/smartbft/_fastpath/*.pxd $(CRATE)/include/*.h) \
          $(CRATE)/Cargo.toml $(CRATE)/Cargo.lock $(shell find $(CRATE)/src -name '*.rs')

.PHONY: demo venv build test wheel lint format clean

# --- the demo: four replica processes under load; ARGS="--seconds 3" and the like go to 'smartbft demo' ---

demo: build
	@$(BIN)/smartbft demo $(ARGS)

# --- environment and build ---

$(VENV)/.stamp: pyproject.toml ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "smartbft: needs Python 3.11 or newer ($(PYTHON) is older): make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "smartbft: this Python has no venv: install it, e.g. 'apt install python3-venv'"; exit 1; }
	@echo "smartbft: installing the tools and building the native code into $(VENV) and build: a few minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint ci/constraints.txt setuptools wheel Cython
	@# Here, where it is seen to go on; pip would build without a word.
	$(BIN)/python setup.py --quiet build_ext --inplace
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint ci/constraints.txt --no-build-isolation --editable '.[bench,test,dev]'
	@touch $@

build/.stamp: $(VENV)/.stamp setup.py $(NATIVE)
	$(BIN)/python setup.py --quiet build_ext --inplace
	@mkdir -p build && touch $@

venv: $(VENV)/.stamp

build: build/.stamp

# --- checks ---

# In virtual time or without time: these share the cores. The others start processes, and run one at a time.
VIRTUAL := tests/core tests/fuzz tests/hostile tests/protocols tests/simulator

test: build
	cd $(CRATE) && cargo test --locked --release --quiet --target-dir ../../build/cargo
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal --benchmark-disable $(VIRTUAL)
	$(BIN)/python -m pytest $(addprefix --ignore=,$(VIRTUAL))

lint: venv
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH="$(abspath $(BIN)):$$PATH" cython-lint $(CRATE)/*.pyx $(CRATE)/*.pxi src/smartbft/_fastpath/*.pxd
	$(BIN)/lint-imports
	cd $(CRATE) && cargo fmt --check
	cd $(CRATE) && cargo clippy --locked --release --all-targets --target-dir ../../build/cargo -- -D warnings

format:
	$(BIN)/ruff check --fix-only .
	cd $(CRATE) && cargo fmt

# --- packages ---

wheel: venv
	PIP_CONSTRAINT=$(abspath ci/constraints.txt) $(BIN)/python -m build --outdir dist

clean:
	rm -rf build dist *.egg-info src/*.egg-info src/smartbft/_fastpath/*.so $(VENV)
