# What is run on every change: make check. It uses the Python of the active environment.

.PHONY: check static format format-check lint sql-check typecheck contracts docs docs-check test wheel wheel-test fuzz

SQL = queries warehouse/checks warehouse/views

check: static test

static: format-check lint sql-check typecheck contracts docs-check

format:
	ruff format .
	ruff check --fix .
	sqlfluff format $(SQL)

format-check:
	ruff format --check .

lint:
	ruff check .

sql-check:
	sqlfluff lint $(SQL)

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

# A source archive, and from it the wheel of this platform for Python 3.11 and later.
wheel:
	rm -rf build/dist
	python -m build --outdir build/dist

# The tests against the wheel in a new environment, with no compiler and no source tree on the path.
wheel-test: wheel
	rm -rf build/venv
	python -m venv build/venv
	build/venv/bin/python -m pip install -c constraints.txt --only-binary :all: "$$(echo build/dist/*.whl)[test]"
	CC=/bin/false build/venv/bin/python tests/run_installed.py

# Many more mutations of weight files than the tests make; prints the slowest one and the peak of memory.
fuzz:
	python -m layerhouse.tests.test_mutations 4000
