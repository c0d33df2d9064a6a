# One file for people and for CI: `make check` is what .ci/run calls. Needs nothing but Python >= 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Most tests wait for a process more than they compute: more workers than cores pay. ARGS="-n0 -s" shows a test's own output.
WORKERS ?= 4

.PHONY: dev test check lint types bench report soak lock build clean help

help:  ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

dev: $(VENV)/runtime  ## run a temporary instance with demo users, ready to log in
	$(BIN)/python -m kiwi_id dev $(ARGS)

test: $(VENV)/dev  ## run the tests, in WORKERS processes
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

check: lint types test  ## what CI runs: lint, types, tests

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev
	$(BIN)/mypy

bench: $(VENV)/dev  ## front against direct and against a plain stack, side by side
	$(BIN)/python -m bench.front $(ARGS)

report: $(VENV)/bench  ## measure all contenders in one run; writes bench/report.md and bench/report.png
	$(BIN)/python -m bench.report $(ARGS)

soak: $(VENV)/dev  ## faults in random order under load: make soak CYCLES=2000 SEED=7 KANIDMD=/path/to/kanidmd
	$(BIN)/python -m tests.faults.soak --cycles $(or $(CYCLES),200) --seed $(or $(SEED),1) $(if $(KANIDMD),--kanidmd $(KANIDMD)) $(ARGS)

build: $(VENV)/dev  ## build the wheel into dist/
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

lock:  ## pin all dependencies anew (needs uv)
	uv pip compile pyproject.toml --extra server --universal --generate-hashes --python-version 3.11 -o requirements/runtime.txt --upgrade
	uv pip compile pyproject.toml --extra server --group dev --universal --generate-hashes --python-version 3.11 -o requirements/dev.txt --upgrade
	uv pip compile --group bench -c requirements/dev.txt --universal --generate-hashes --python-version 3.11 -o requirements/bench.txt --upgrade

$(VENV)/runtime: requirements/runtime.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Kiwi ID needs Python 3.11 or newer; name one with: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.txt
	@touch $@

$(VENV)/dev: $(VENV)/runtime requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV)/bench: $(VENV)/dev requirements/bench.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	@touch $@

clean:  ## remove what the targets above made
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
