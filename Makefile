# Each target makes its own .venv once; .venv/stamp says that it is up to date.
# TORCH_INDEX: an extra package index for torch, for example the one with CPU builds.
PYTHON ?= python3
TORCH_INDEX ?=
LINE_CEILING := 400

BIN := .venv/bin
STAMP := .venv/stamp
EXTRA_INDEX := $(if $(strip $(TORCH_INDEX)),--extra-index-url $(TORCH_INDEX),)

.PHONY: demo test lint size

demo: $(STAMP)
	$(BIN)/python -m examples.train_gpt2

test: lint
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

size:
	@find graphckpt tests benchmarks examples csrc setup.py \( -name '*.py' -o -name '*.cpp' -o -name '*.h' -o -name '*.cu' \) -type f 2>/dev/null \
	| LC_ALL=C sort | xargs wc -l \
	| awk -v ceiling=$(LINE_CEILING) '$$2 == "total" { print; next } { over = $$1 > ceiling; bad += over; print $$0 (over ? "  above " ceiling : "") } END { exit bad > 0 }'

$(STAMP): requirements.txt pyproject.toml setup.py $(wildcard csrc/*)
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 13), f"Python 3.11 or 3.12 wanted, came {sys.version.split()[0]}: make PYTHON=python3.12"'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(EXTRA_INDEX) -r requirements.txt
	$(BIN)/python -m pip install -e . --no-deps --no-build-isolation
	touch $(STAMP)
