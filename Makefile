# What CI runs, by name. `pip install -e ".[dev]"` brings every tool.
PYTHON ?= python
WHEELS ?= dist

.PHONY: help lint format types test slow site docs coverage bench wheel

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

lint: ## ruff: rules and format
	ruff check .
	ruff format --check .

format: ## mend what ruff can mend
	ruff check --fix .
	ruff format .

types: ## mypy, by the settings of pyproject.toml
	mypy

test: ## the quick tests
	$(PYTHON) -m pytest --durations=10

slow: ## the tests marked slow: compilers and longer trainings, then those of two processes, one at a time
	$(PYTHON) -m pytest -m "slow and not processes" --durations=10
	$(PYTHON) -m pytest -m "slow and processes" -n 0 --durations=10

site: ## the documentation as a site in build/site; any warning, such as a link to nowhere, is an error
	$(PYTHON) -m mkdocs build --strict

docs: site ## that, and every code block of README.md, docs/ and the docstrings
	$(PYTHON) -m pytest tests/test_readme.py tests/test_docs.py tests/test_docstrings.py

coverage: ## the quick tests, with the lines that they miss
	$(PYTHON) -m pytest --cov --cov-report=term --cov-report=xml

bench: ## benchmarks/ at size small; BENCH="--size tiny" for another
	$(PYTHON) benchmarks/run_all.py $(BENCH)

wheel: ## build sdist and wheel, and see that it carries what is no Python
	$(PYTHON) -m build --outdir $(WHEELS)
	$(PYTHON) -m zipfile --list $(WHEELS)/modeling_trace-*.whl | grep modeling_trace/py.typed
