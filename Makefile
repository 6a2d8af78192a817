# Each target makes its own .venv once; .venv/stamp says that it is up to date.
# TORCH_INDEX: an extra package index for torch, for example the one with CPU builds.
PYTHON ?= python3
TORCH_INDEX ?=
# Processes that the main suite runs in; a file's tests stay in one.
WORKERS ?= 2
LINE_CEILING := 400
OLD_TRITON := 3.6.0
OLD_NUMPY := 2.3.5

PARALLEL := -n $(WORKERS) --dist loadfile
BIN := .venv/bin
STAMP := .venv/stamp
EXTRA_INDEX := $(if $(strip $(TORCH_INDEX)),--extra-index-url $(TORCH_INDEX),)

.PHONY: demo test test-interpreted test-compiled test-torch test-gpu kernels kernels-old bench-attention fuzz lint size

demo: $(STAMP)
	$(BIN)/python -m examples.train_gpt2

test: lint
	$(BIN)/python -m pytest $(PARALLEL)
	$(MAKE) -j 2 test-interpreted test-compiled

# Whether a kernel is interpreted is decided when it is imported: a process for each.
test-interpreted: $(STAMP)
	TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/interpreted

test-compiled: $(STAMP)
	$(BIN)/python -m pytest tests/compiled

# The suite with another torch, in an environment of its own: make test-torch VERSION=2.15.0
test-torch:
	$(if $(VERSION),,$(error expected a version of torch: make test-torch VERSION=2.15.0))
	$(MAKE) build/torch-$(VERSION)/stamp
	build/torch-$(VERSION)/bin/python -m pytest -rs $(PARALLEL)
	TRITON_INTERPRET=1 build/torch-$(VERSION)/bin/python -m pytest -rs tests/interpreted
	build/torch-$(VERSION)/bin/python -m pytest -rs tests/compiled

# torch brings the Triton it was built with; 2.11 wants an older setuptools than the pinned one, so pip finds one for both.
build/torch-%/stamp: requirements.txt pyproject.toml setup.py $(wildcard csrc/*)
	test -x build/torch-$*/bin/python || $(PYTHON) -m venv build/torch-$*
	grep -vE '^(#|torch==|triton==|setuptools==)' requirements.txt > build/torch-$*/requirements.txt
	build/torch-$*/bin/python -m pip install $(EXTRA_INDEX) torch==$* 'setuptools>=77' -r build/torch-$*/requirements.txt
	build/torch-$*/bin/python -m pip install -e . --no-deps --no-build-isolation
	touch $@

# What needs a GPU; without one, each test says so.
test-gpu: $(STAMP)
	$(BIN)/python -m pytest tests/gpu -rs

# Every line of the table of tiles, compiled for every architecture and compared with what is recorded.
kernels: $(STAMP)
	$(BIN)/python -m benchmarks.kernels check

# The same with the Triton of current CUDA images, which wants an older numpy; in an environment of its own.
kernels-old: $(STAMP)
	test -d build/triton-$(OLD_TRITON) || $(BIN)/python -m pip install --target build/triton-$(OLD_TRITON) --no-deps triton==$(OLD_TRITON) numpy==$(OLD_NUMPY)
	PYTHONPATH=build/triton-$(OLD_TRITON) $(BIN)/python -m benchmarks.kernels check
	PYTHONPATH=build/triton-$(OLD_TRITON) TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/interpreted

bench-attention: $(STAMP)
	$(BIN)/python -m benchmarks.attention

# Random programs of seeds from:to, each in a process; what was run at this commit already is not run again. FEATURES=names of
# what a program must have (with a "-": must not have), as the last table lists them.
SEEDS ?= 0:500
FEATURES ?=
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz --seeds $(SEEDS) --features="$(FEATURES)"

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
