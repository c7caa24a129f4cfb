# `make help` lists what can be done. Everything stays inside this folder.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
PORT ?= 8000
UI_PORT ?= 5000
BIN := .venv/bin
# quiet libraries, whose own files stay inside this folder too
export TF_CPP_MIN_LOG_LEVEL ?= 2
export TF_ENABLE_ONEDNN_OPTS ?= 0
export GIT_PYTHON_REFRESH ?= quiet
export MLFLOW_DISABLE_TELEMETRY ?= true
export KERAS_HOME ?= $(CURDIR)/.venv/keras
export MPLCONFIGDIR ?= $(CURDIR)/.venv/matplotlib

.PHONY: help setup demo serve ui stack stack-proof secrets images check docs test conformance soak attack bench-peers lock clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/:/' | column -t -s:

setup: .venv/.tests  ## make the environment from the locked requirements

# what trains and serves, which is all that a demo needs
.venv/.pipelines: deploy/requirements-train.lock
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else \
	  f"python {sys.version.split()[0]} found, 3.11 to 3.13 needed: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r deploy/requirements-train.lock
	touch $@

# and what the tests and checks need beside it
.venv/.tests: .venv/.pipelines requirements.lock
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	touch $@

demo: .venv/.pipelines  ## run the main job end to end; DATA=prices.csv runs it on a price file
	$(BIN)/python -m pipelines.demo $(if $(DATA),--data "$(DATA)")

serve: .venv/.pipelines  ## serve the registered models on http://127.0.0.1:8000 (PORT=)
	FORECASTER_PORT=$(PORT) $(BIN)/python -m service

ui: .venv/.pipelines  ## open the MLflow UI on the local store, http://127.0.0.1:5000 (UI_PORT=)
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/python -m mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db --host 127.0.0.1 --port $(UI_PORT)

stack: setup  ## run docker-compose.yml on this machine without Docker: Postgres, MLflow, the service, the scheduler
	$(BIN)/python -m tests.stack.local up

stack-proof: setup  ## bring the stack up, train, swap under load, kill, stop; says how long each took
	$(BIN)/python -m tests.stack.proof

secrets:  ## make the secrets of docker-compose.yml that are missing, in deploy/secrets
	$(PYTHON) -m deploy.make_secrets

images:  ## build the images with Docker
	docker compose build

check: setup  ## lint, type-check, check imports, the README's size and the words of messages and docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@test $$(wc -c < README.md) -le 6000 || { echo "README.md: $$(wc -c < README.md) bytes, at most 6000" >&2; exit 1; }
	$(BIN)/python -m pytest tests/domain/test_words.py

docs: .venv-docs/.installed  ## build the docs and the API reference into site/
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

.venv-docs/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet 'pip>=25.1'
	.venv-docs/bin/python -m pip install --quiet --group docs
	touch $@

test: setup  ## run the tests, four files at a time: many of them wait for other processes
	$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder

conformance: setup  ## train and serve every combination of the parts of a network (10 minutes on two cores)
	FORECASTER_CONFORMANCE=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 tests/models/test_combinations.py \
	  tests/models/test_served_combinations.py

soak: setup  ## the fault tests at length: 80 kills, 50 swaps, 10,000 slow senders, a second demo; the image, made and run; make stack-proof
	ulimit -n $$(ulimit -Hn); FORECASTER_SOAK=1 $(BIN)/python -m pytest tests/faults tests/end_to_end/test_stack.py \
	  tests/end_to_end/test_demo.py tests/end_to_end/test_retrain.py tests/end_to_end/test_refresh.py \
	  tests/fleet/test_fleet.py tests/search/test_ray_trials.py

attack: setup  ## run the worst attacks on the store, the service and the gate, on loopback; a table of what held
	$(BIN)/python -m tests.attack

bench-peers: .venv-peers/.installed  ## install the peers that benchmarks compare with into their own environment

.venv-peers/.installed: benchmarks/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet -r benchmarks/peers.txt
	touch $@

UV_COMPILE = .venv-lock/bin/uv pip compile pyproject.toml --universal --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --custom-compile-command "make lock" --quiet

lock:  ## write the locked requirements anew from pyproject.toml: this checkout's, and each image's
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet uv
	$(UV_COMPILE) --extra train --group dev -o requirements.lock
	$(UV_COMPILE) -c requirements.lock --extra serve -o deploy/requirements-serve.lock
	$(UV_COMPILE) -c requirements.lock --extra train -o deploy/requirements-train.lock
	$(UV_COMPILE) -c requirements.lock --extra gpu -o deploy/requirements-gpu.lock
	rm -rf .venv-lock

clean:  ## remove the environments and the local store
	rm -rf .venv .venv-peers .venv-docs site mlruns
