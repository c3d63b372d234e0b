PYTHON ?= python3
# The newest torch for Linux comes with gigabytes of CUDA, which demo and tests don't need. This version has a build
# for CPUs that pip prefers where it is on offer. To use a GPU: make TORCH=torch
TORCH ?= torch==2.13.0
WORKERS ?= 2
BIN := .venv/bin
LABELS := sky, building, tree, water

.PHONY: demo test lint format picture

demo: .venv/installed
	$(BIN)/transformers-pat segment examples/photos/china.jpg --labels "$(LABELS)" --output demo
	@echo "The picture is demo/china_overlay.png"

# The picture at the top of the README.
picture: demo
	mkdir -p docs/images
	cp demo/china_overlay.png docs/images/demo.png

test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

lint: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/torch:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	touch $@

.venv/installed: .venv/torch pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/installed-dev: .venv/torch pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@
