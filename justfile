# The commands of this repository; `just` alone lists them. They use the environment that is active.

# list the commands
default:
    @just --list

# install privae and every tool a contributor needs
setup:
    pip install -e '.[dev]'

# everything that must hold before a change is merged, except the tests
check:
    ruff check .
    ruff format --check .
    mypy
    lint-imports
    python scripts/map.py --check
    python scripts/figures.py --check
    python scripts/contract.py --check

# the tests; arguments go to pytest
test *arguments:
    pytest {{arguments}}

# write the generated parts of the documents: docs/map.md, and the figures of README.md and docs/explain/engine.md
docs:
    python scripts/map.py
    python scripts/figures.py

# measure, writing benchmarks/results/main.json (--quick: one seed, for a smoke test)
bench *arguments:
    python benchmarks/main.py {{arguments}}
