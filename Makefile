# `make check` is run on every change. Everything uses the Python of the active environment.

.PHONY: check test-slow static format format-check lint sql-check typecheck contracts docs docs-check test wheel wheel-test fuzz stress

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

# The root of the repository is the package, so mypy sees it through a link (ignored by git).
typecheck:
	mkdir -p .typecheck
	ln -sfn .. .typecheck/layerhouse
	MYPYPATH=.typecheck mypy -p layerhouse

contracts:
	lint-imports

# The generated pages, and all pages as a site in build/site.
docs:
	python docs/generate.py
	mkdocs build --strict

docs-check:
	python docs/generate.py --check
	mkdocs build --strict

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

# Many more mutated files of every kind than the tests make, of any seed; prints the slowest one and the peak memory.
# make fuzz ROUNDS=500 SEED=7 TARGET=safetensors; files with a fault are kept in build/mutations.
ROUNDS = 4000
SEED =
TARGET =
fuzz:
	python -m layerhouse.tests.test_mutations $(ROUNDS) "$(SEED)" "$(TARGET)"


# Mutation testing, not part of the checks: make mutants ROOM=model MINUTES=5. Needs: pip install -c constraints.txt -e '.[mutants]'
.PHONY: mutants
ROOM =
MINUTES = 10

mutants:
	python -m layerhouse.tests.mutants --minutes $(MINUTES) $(ROOM)


# What the page of `layerhouse report` has ready-made: the parts of Vega that it runs, and its figures. Needs npm and a network.
.PHONY: report-assets

report-assets:
	python tools/report_assets.py


# Every architecture of transformers, built small: parameters and sizes as torch and the configs have them. Five minutes.
.PHONY: architectures
NAMES =

architectures:
	python -m layerhouse.tests.architectures $(NAMES)


# A release: set the version in version.py, date its heading in CHANGELOG.md, commit, then `make release`. It publishes nothing.
.PHONY: release release-check
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' version.py)

release: release-check check wheel-test
	git tag -a "v$(VERSION)" -m "layerhouse $(VERSION)"
	@echo "v$(VERSION) is tagged; its source archive and the wheel of this platform are in build/dist. To publish it:"
	@echo "  git push origin v$(VERSION)                # the workflow wheels.yml builds the wheels of the other platforms"
	@echo "  python -m twine upload build/dist/*        # with those wheels in the same folder"

release-check:
	@test -z "$$(git status --porcelain)" || { echo "release: there are uncommitted changes; commit them first"; exit 1; }
	@grep -m 1 '^## ' CHANGELOG.md | grep -qxE '## $(subst .,\.,$(VERSION)), [0-9]{4}-[0-9]{2}-[0-9]{2}' || \
		{ echo "release: the first heading of CHANGELOG.md is not '## $(VERSION), YEAR-MONTH-DAY'"; exit 1; }
	@! git rev-parse -q --verify "refs/tags/v$(VERSION)" >/dev/null || { echo "release: the tag v$(VERSION) exists"; exit 1; }

# Flipped bytes, killed runs, writers and readers at once, a full disk, interrupts: about 20 minutes.
stress:
	python -m layerhouse.tests.stress

test-slow:
	python -m pytest -m slow
