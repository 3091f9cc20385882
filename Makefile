# `make` alone prints the help. Every target first does whatever set-up is missing, and says so.

PY := .venv/bin/python
STACK := $(PY) -m stack
# Start the servers that a command needs if they do not run yet, and stop afterwards those that this started.
WITH_REDIS := $(STACK) exec --with redis --
WITH_MLFLOW := $(STACK) exec --with mlflow --
WITH_BOTH := $(STACK) exec --with redis,mlflow --
FOR_MODEL = $(if $(MODEL),--model "$(MODEL)")
# What a person decided where the orders alone cannot say what is meant: docs/orders.md.
DECIDED = $(if $(ALLOW),--allow "$(ALLOW)")
BECAUSE = $(if $(WHY),--why "$(WHY)")

export DO_NOT_TRACK := 1
export FEAST_USAGE := False
export GX_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.PHONY: help setup lock run test stress lint format up down status ingest profile apply materialize backfill reconcile audit train train-prefect score drift serve \
	models lineage promote rollback challenge reject bench airflow feast clean

# A prerequisite `needs.NAME` stops with a message, before anything else is done, unless the variable is given.
needs.%:
	@test -n "$($*)" || { echo "make $(MAKECMDGOALS): $*= is missing; \`make help\` says what it means" >&2; exit 2; }

help: ## This text
	@echo "delivery-eta. The two commands to begin with: make run, make test"
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Begin here
setup: ## Make .venv with the pinned packages (PYTHON=python3.11 chooses the interpreter)
	@scripts/setup

run: setup ## The whole loop once: orders, features, model, service, drift (ORDERS=file MAPPING=mapping.yaml ALLOW=: yours)
	@$(STACK) run $(if $(ORDERS),--orders "$(ORDERS)") $(if $(MAPPING),--mapping "$(MAPPING)") $(DECIDED)

test: setup ## All tests (ARGS="tests/stack -k redis": some)
	@$(PY) -m pytest $(ARGS)

##@ The system, running on its own
up: setup ## Start Redis, MLflow, serving, Airflow and the live orders; print addresses and login
	@$(STACK) up

down: setup ## Stop exactly what `up` started
	@$(STACK) down

status: setup ## What runs, where, and with how much memory
	@$(STACK) status

##@ Its steps, one by one (times are full hours, as 2026-01-31T14:00Z)
ingest: needs.ORDERS needs.MAPPING setup ## Bring orders in: ORDERS=file, glob or database URL, MAPPING=mapping.yaml, ALLOW=decisions
	@$(PY) -m feature_repo.orders "$(ORDERS)" "$(MAPPING)" $(DECIDED)

profile: needs.ORDERS setup ## A mapping to start from, for orders that you have: ORDERS= (TABLE=); with MAPPING=, what they allow
	@$(PY) -m stack.profile $(if $(TABLE),--table "$(TABLE)") "$(ORDERS)" $(if $(MAPPING),"$(MAPPING)")

apply: setup ## Register the feature definitions
	@$(WITH_REDIS) $(PY) -m feature_repo apply

backfill: needs.START needs.END setup ## Compute the features of a span of hours: START= END=
	@$(WITH_REDIS) $(PY) -m feature_repo backfill "$(START)" "$(END)"

materialize: needs.START needs.END setup ## Copy the feature rows of a span of time into Redis: START= END=
	@$(WITH_REDIS) $(PY) -m feature_repo materialize "$(START)" "$(END)"

reconcile: setup ## Make Redis what the feature rows say, and take back what they do not have
	@$(WITH_REDIS) $(PY) -m feature_repo reconcile

audit: setup ## Compare every key of Redis with the feature rows; exit status 1 if any differs
	@$(WITH_REDIS) $(PY) -m feature_repo audit --all

train: setup ## Train, evaluate, gate and register: MODEL= (delivery_time) AS_OF= (default: the last full hour)
	@$(WITH_MLFLOW) $(PY) -m training run $(FOR_MODEL) $(if $(AS_OF),--as-of "$(AS_OF)")

train-prefect: setup ## The same as a Prefect flow, for who runs Prefect: MODEL= AS_OF= (needs the extra `prefect`)
	@$(PY) -c 'import importlib.util as u, sys; sys.exit(u.find_spec("prefect") is None)' || { echo "make train-prefect:" \
		"Prefect is an extra, install it with: .venv/bin/uv pip install --python $(PY) -e '.[prefect]'" >&2; exit 2; }
	@$(WITH_MLFLOW) $(PY) -m training.prefect_flow $(FOR_MODEL) $(if $(AS_OF),--as-of "$(AS_OF)")

serve: setup ## The prediction API in the foreground, at ETA_SERVING_PORT (8000)
	@$(WITH_BOTH) $(PY) -m serving

score: needs.START needs.END setup ## Score the orders of a span of time with the champion: START= END=
	@$(WITH_BOTH) $(PY) -m serving.batch "$(START)" "$(END)"

drift: needs.START needs.END setup ## Compare served features and errors with the training reference: START= END=
	@$(WITH_BOTH) $(PY) -m monitoring "$(START)" "$(END)"

airflow: needs.ARGS setup ## Airflow's own command line on this installation: ARGS="dags list"
	@$(STACK) airflow $(ARGS)

feast: needs.ARGS setup ## Feast's own command line on this installation: ARGS="feature-views list"
	@$(WITH_REDIS) .venv/bin/feast -c feature_repo $(ARGS)

##@ Versions of a model (MODEL=delivery_time unless given)
models: setup ## The versions, their aliases and errors, and every decision about them
	@$(WITH_MLFLOW) $(PY) -m training models $(FOR_MODEL)

lineage: needs.VERSION setup ## What a version was made of, down to the order files: VERSION=
	@$(WITH_MLFLOW) $(PY) -m training lineage "$(VERSION)" $(FOR_MODEL)

promote: needs.VERSION setup ## Make a version the champion: VERSION= WHY="..."
	@$(WITH_MLFLOW) $(PY) -m training promote "$(VERSION)" $(FOR_MODEL) $(BECAUSE)

rollback: setup ## Make the champion's predecessor the champion again: WHY="..."
	@$(WITH_MLFLOW) $(PY) -m training rollback $(FOR_MODEL) $(BECAUSE)

challenge: needs.VERSION setup ## Make a version the challenger, which answers nobody: VERSION= WHY="..."
	@$(WITH_MLFLOW) $(PY) -m training challenge "$(VERSION)" $(FOR_MODEL) $(BECAUSE)

reject: needs.VERSION setup ## Take a version out, no rollback goes back to it: VERSION= WHY="..."
	@$(WITH_MLFLOW) $(PY) -m training reject "$(VERSION)" $(FOR_MODEL) $(BECAUSE)

##@ Work on the code
lint: setup ## Check style and types; writes nothing
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

stress: setup ## Whether a test fails by chance: all of them RUNS=5 times while every core is busy (ARGS= as for test)
	@scripts/stress $(or $(RUNS),5) $(ARGS)

format: setup ## Rewrite the code in the house style
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

bench: setup ## Run a benchmark: NAME= (ARGS=: what it asks for)
	@test -n "$(NAME)" || { echo "make bench needs NAME, one of:" $(basename $(notdir $(filter-out %/__init__.py %/harness.py %/procedures.py %/render.py,$(wildcard benchmarks/*.py)))) >&2; exit 2; }
	@$(PY) -m benchmarks.$(NAME) $(ARGS)

lock: setup ## Pin every dependency again, with hashes (ARGS=--upgrade: newest versions)
	@.venv/bin/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra dev --extra compose \
		pyproject.toml --output-file requirements.lock --custom-compile-command "make lock" $(ARGS)
	@echo uv | .venv/bin/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-annotate \
		- --output-file requirements-bootstrap.txt --custom-compile-command "make lock" $(ARGS)
	@git --no-pager diff --stat -- requirements.lock requirements-bootstrap.txt

clean: ## Stop the servers, then remove data/ and the caches; .venv and .env stay
	@if [ -x $(PY) ]; then $(STACK) clean; else echo "clean: nothing is set up"; fi
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build
