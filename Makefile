# `make quickstart` and `make test` need nothing but Python ≥ 3.11 and make: each makes .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
TYPED := build/typed

.PHONY: quickstart test test-paths check check-style docs release bench clean
.DELETE_ON_ERROR:

quickstart: .venv/.installed ## train a small population, build it, load it, restore its best model
	$(BIN)/zoo quickstart --out quickstart

test: .venv/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-paths: .venv/.installed-test ## the engine's tests, once for each kind of instructions of this machine
	$(BIN)/python tests/engine_paths.py

check: check-style test

check-style: .venv/.installed-dev as-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=$(TYPED) $(BIN)/mypy -p zoo_datasets

# mypy and the documentation find zoo_datasets.builders and .training where they install, not where they lie.
.PHONY: as-installed
as-installed:
	@rm -rf $(TYPED) && mkdir -p $(TYPED)/zoo_datasets
	@ln -s $(CURDIR)/zoo_datasets/* $(CURDIR)/builders $(CURDIR)/training $(TYPED)/zoo_datasets/

docs: .venv/.installed-docs as-installed ## the site in build/site: strict, offline, and no request leaves it
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	$(BIN)/python tests/check_site.py build/site

release: .venv/.installed-dev ## sdist and wheel in dist/, and the wheel tried in a new environment of each Python at hand
	rm -rf dist
	$(BIN)/python -m build --installer pip
	$(BIN)/python tests/try_wheel.py dist

bench: .venv/.installed-test
	$(BIN)/python tests/benchmarks/engine.py
	$(BIN)/python tests/benchmarks/training.py
	$(BIN)/python tests/benchmarks/importing.py
	$(BIN)/python tests/benchmarks/state_dicts.py
	$(BIN)/python tests/benchmarks/streaming.py
	$(BIN)/python tests/benchmarks/features.py
	$(BIN)/python tests/benchmarks/checking.py

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/.installed-test: .venv/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

.venv/.installed-dev: .venv/.installed-test
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv/.installed-docs: .venv/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv build dist quickstart *.egg-info
