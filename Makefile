# Every target makes its own environment on a fresh clone; the second run only checks a stamp.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -qq
OUT    ?= out/demo
LOCK   := build/lock-env
UV     := $(LOCK)/bin/uv pip compile --universal --generate-hashes --no-header --no-annotate --no-config --python-version 3.11 -q

.PHONY: demo test lint types bench docs lock clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo  ## the whole job on the built-in pair, offline
	$(BIN)/tuban demo --out $(OUT)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy -p tuban

bench: $(VENV)/.dev
	@set -e; for file in benchmarks/*.py; do [ -e "$$file" ] || { echo "no benchmark yet"; break; }; echo "== $$file"; $(BIN)/python "$$file"; done

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -q

# Resolves pyproject.toml anew. The locks hold versions and hashes for every platform, and no address.
lock: $(LOCK)/bin/uv
	echo "setuptools>=80" > build/build.in
	$(UV) --upgrade pyproject.toml build/build.in --all-extras -o locks/dev.txt
	$(UV) --upgrade pyproject.toml build/build.in --extra demo -c locks/dev.txt -o locks/demo.txt

clean:
	rm -rf build dist site out .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

$(LOCK)/bin/uv:
	$(PYTHON) -m venv $(LOCK)
	$(LOCK)/bin/python -m pip --disable-pip-version-check -q install uv

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tuban needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The editable install builds with the locked setuptools, so it fetches nothing that the lock does not name.
$(VENV)/.demo: locks/demo.txt pyproject.toml setup.py | $(BIN)/python
	$(PIP) install --require-hashes -r locks/demo.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: locks/dev.txt pyproject.toml setup.py | $(BIN)/python
	$(PIP) install --require-hashes -r locks/dev.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.demo
