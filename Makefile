PYTHON ?= python3
# `make lock` pins this torch: it has a build for CPUs that pip prefers where it is on offer. The newest torch for Linux
# comes with gigabytes of CUDA, which demo and tests don't need.
TORCH ?= torch==2.13.0
WORKERS ?= 2
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
LABELS := sky, building, tree, water
PYTEST := -m pytest -n $(WORKERS)

export OMP_NUM_THREADS ?= 1

EXAMPLES ?= 10000

.PHONY: demo test fuzz coverage test-newest test-oldest conformance lint format lock picture results bench web web-test dist docs

demo: .venv/installed
	$(BIN)/transformers-pat segment examples/photos/china.jpg --labels "$(LABELS)" --output demo
	@echo "The picture is demo/china_overlay.png"

test: .venv/installed-dev
	$(BIN)/python $(PYTEST)

# Damaged files and strange input, EXAMPLES cases per test, until MINUTES are over; then each of our own parsers under a
# fuzzer that follows coverage, for GUIDED seconds.
MINUTES ?= 60
GUIDED ?= 60
fuzz: .venv/installed-dev
	$(PIP) atheris
	EXAMPLES=$(EXAMPLES) timeout $(MINUTES)m $(BIN)/python $(PYTEST) tests/fuzz
	$(BIN)/python -m tests.fuzz.guided all -max_total_time=$(GUIDED)

# Lines of the package that the suite runs, commands in processes of their own included. (A file limit that one test
# sets stops coverage's own file, so that test is left out.)
coverage: .venv/installed-dev
	$(PIP) coverage
	$(BIN)/coverage run -m pytest -p no:xdist --deselect \
		tests/training/test_checkpoints.py::test_a_full_disk_leaves_the_last_good_checkpoint
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --skip-covered --show-missing

# The same suite with the newest and the oldest versions that pyproject.toml allows. Both install a torch with CUDA.
test-newest: .venv-newest/installed
	.venv-newest/bin/python $(PYTEST)

test-oldest: .venv-oldest/installed
	.venv-oldest/bin/python $(PYTEST)

# transformers' common tests, from the source archive of the installed version; writes docs/conformance.md.
conformance: .venv/installed-dev
	$(BIN)/python -m pytest -W ignore tools/conformance

lint: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python tools/lint_models.py

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Rewrites constraints.txt with the newest versions that fit together, on every system.
lock: .venv/installed-dev
	echo "$(TORCH)" | $(BIN)/uv pip compile --quiet --universal --upgrade --no-header --no-annotate \
		--all-extras --output-file constraints.txt pyproject.toml -

# docs/results/pat_nano.json and .md: every number that README and cards quote. DATA is the folder of the data sets.
results: .venv/installed-dev
	$(BIN)/python -m recipes.pat_nano.results --data $(DATA)

# docs/performance.md: what takes how long. Half an hour; nothing else should run.
bench: .venv/installed-dev
	OMP_NUM_THREADS=2 $(BIN)/python -m benchmarks.performance

# The documentation as a site, in site/.
docs: .venv/installed-dev
	$(BIN)/zensical build --clean --strict

# What a release uploads, in dist/.
dist: .venv/installed-dev
	rm -rf dist
	$(BIN)/python -m hatchling build --directory dist
	$(BIN)/twine check --strict dist/*

# The picture at the top of the README.
picture: demo
	mkdir -p docs/images
	cp demo/china_overlay.png docs/images/demo.png

# The page that segments in the browser, in web/dist. Needs Node.js; its test needs Chromium.
web: .venv/installed-dev
	cd web && npm ci --loglevel=error --ignore-scripts --no-audit --no-fund && PATH="$(CURDIR)/$(BIN):$$PATH" npm run build

web-test: web
	cd web && PATH="$(CURDIR)/$(BIN):$$PATH" npm test

.venv/created:
	$(PYTHON) -m venv .venv
	touch $@

.venv/installed: .venv/created pyproject.toml constraints.txt
	$(PIP) -e .
	touch $@

.venv/installed-dev: .venv/created pyproject.toml constraints.txt
	$(PIP) -e ".[dev]"
	touch $@

.venv-newest/installed: .venv/installed-dev pyproject.toml
	$(BIN)/uv venv --quiet --clear .venv-newest
	$(BIN)/uv pip install --quiet --python .venv-newest --upgrade -e ".[test]"
	touch $@

.venv-oldest/installed: .venv/installed-dev pyproject.toml
	$(BIN)/uv venv --quiet --clear .venv-oldest
	$(BIN)/uv pip install --quiet --python .venv-oldest --resolution lowest-direct -e ".[test]"
	touch $@
