# Each line is a command that a person could type. `make test` and `make demo` set up what they need.
PYTHON ?= python3
BIN := .venv/bin

# Numerical libraries would otherwise start a thread a core in each of the parallel tests.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint portability torture notebooks bench gpu-check clean

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Name another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "Python's venv module is incomplete here. On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/sciml demo --out demo --overwrite

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -n 2 -m 'not slow'
	$(BIN)/pytest -n 2 -m slow

# Which tests change sides on another processor: all of them, or with QUICK=1 the most sensitive ones in a few minutes.
portability: .venv/installed
	$(BIN)/python tests/portability.py $(if $(QUICK),--quick)

# Wrong files, kills, attacks, implausible inputs: about an hour; shorter with e.g. TRIES='--files 3000 --kills 8'.
torture: .venv/installed
	$(BIN)/python tests/torture.py $(TRIES)

# The notebooks in full; `make test` runs their short form.
notebooks: .venv/installed
	SCIML_FULL=1 $(BIN)/pytest -m slow --durations=0 tests/test_notebooks.py

bench: .venv/installed
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

gpu-check: .venv/installed
	$(BIN)/pytest -m gpu

clean:
	rm -rf .venv demo
