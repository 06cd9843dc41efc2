.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(VENV)/.uv/bin/uv
SUITE ?= quickstart

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | column -t -s '|'

install: $(VENV)/.installed  ## Create .venv and install everything (only when needed)

# uv lives apart from the project's packages, so that `.venv` holds only what the project names.
$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(PYTHON) -m venv $(VENV)/.uv
	$(VENV)/.uv/bin/python -m pip install --quiet uv

$(VENV)/.installed: pyproject.toml constraints.txt | $(UV)
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --constraints constraints.txt --group dev --editable .
	@touch $@

demo: install  ## Evaluate trained models of all three tasks, log to MLflow, write the report
	$(BIN)/harness run $(SUITE)

test: install lint  ## Lint, then the tests that CI runs
	$(BIN)/pytest -m "not slow" -n 2

test-all: install lint  ## Every test, the slow ones too
	KILL_RUNS=100 $(BIN)/pytest -n 2

lint: install  ## ruff, mypy and the import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# They need a run, a recipe, a subcommand, a GPU, or a package that is no dependency.
ASKING := benchmarks/seed_study.py benchmarks/learning_rates.py benchmarks/joeynmt_decoding.py \
	benchmarks/turns.py benchmarks/speed_blocks.py benchmarks/deploy_table.py benchmarks/gpu_check.py
bench: install  ## The benchmarks whose figures stand in docs/benchmarks.md
	for script in $(filter-out $(ASKING),$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

constraints: install  ## Pin what is installed now, without host names
	$(UV) pip freeze --python $(BIN)/python --exclude-editable | sed -E 's/\+[a-z0-9]+$$//' > constraints.txt

clean:  ## Remove the environment, runs and caches
	rm -rf $(VENV) runs build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

.PHONY: help install demo test test-all lint bench constraints clean
