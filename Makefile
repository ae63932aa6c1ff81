# Two commands do everything on a fresh machine with Python >= 3.11, make and git: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs dist fresh audit mutants env bench clean

demo: .venv/.core  ## pretrain on the bundled Earth, print the table, write the pictures
	$(BIN)/amodal demo

test: .venv/.dev  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/.dev  ## style, and the types of what people call
	$(BIN)/ruff check amodal benchmarks claims examples scripts tests
	$(BIN)/ruff format --check amodal benchmarks claims examples scripts tests
	$(BIN)/mypy
	if [ -x $(BIN)/hadolint ]; then $(BIN)/hadolint Dockerfile; fi

docs: .venv/.dev  ## run the notebooks, and build the site into build/site; a link that leads nowhere ends it
	$(BIN)/python scripts/notebooks.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

dist: .venv/.dev  ## build the source distribution and the wheel, and look what they hold
	$(BIN)/python scripts/check_dist.py

fresh: .venv/.dev  ## the README's example, the demo and its page in an environment that has nothing else
	$(BIN)/python scripts/fresh_install.py

audit: .venv/.dev  ## known weaknesses of what is installed; asks a service on the network, and says so where it cannot be asked
	$(BIN)/python scripts/audit.py

mutants: .venv/.dev  ## do the tests of a page notice small mistakes in it? PAGE=dino, or several names
	$(BIN)/python -m scripts.mutants $(PAGE)

env: .venv/.dev  ## the environment alone, editable

bench: .venv/.dev  ## ratios against peer libraries
	$(BIN)/python -m benchmarks

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.core: .venv/bin/python pyproject.toml
	$(BIN)/python scripts/install.py demo
	@touch $@

.venv/.dev: .venv/bin/python pyproject.toml claims/pyproject.toml
	$(BIN)/python scripts/install.py dev
	@touch $@ .venv/.core

clean:
	rm -rf .venv build dist *.egg-info
