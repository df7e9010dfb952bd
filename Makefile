# What is run on every change: make check. It uses the Python of the active environment.

.PHONY: check static format format-check lint typecheck contracts docs docs-check test fuzz

check: static test

static: format-check lint typecheck contracts docs-check

format:
	ruff format .
	ruff check --fix .

format-check:
	ruff format --check .

lint:
	ruff check .

# The repository's root is the package, so mypy sees it through a link (git-ignored).
typecheck:
	mkdir -p .typecheck
	ln -sfn .. .typecheck/layerhouse
	MYPYPATH=.typecheck mypy -p layerhouse

contracts:
	lint-imports

docs:
	python docs/generate.py

docs-check:
	python docs/generate.py --check

test:
	python -m pytest

# Many more mutations of weight files than the tests make; prints the slowest one and the peak of memory.
fuzz:
	python -m layerhouse.tests.test_mutations 4000
