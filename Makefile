# Thin verbs. Each works on a fresh machine with Python 3.11+ (venv included) and make.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := PYTHONWARNINGS=ignore $(BIN)/python -m pip --disable-pip-version-check --quiet install
LOCK := uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --extra build
ARGS ?=

.PHONY: run test lint types bench bench-peers load lock clean

run: .venv/installed            ## start the gateway with config.toml on http://127.0.0.1:8080
	@exec $(BIN)/gateway serve --config config.toml $(ARGS)

test: .venv/installed-test      ## every test
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/installed-test      ## ruff, with the reason of each exception in pyproject.toml
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-test     ## mypy --strict
	$(BIN)/mypy

bench: .venv/installed-bench    ## benchmarks against this machine; ARGS="--quick" for a short one
	$(BIN)/python -m bench $(ARGS)

bench-peers: .venv/installed-bench  ## the same run with LiteLLM, Portkey and MLflow beside us
	$(BIN)/python -m bench --peers $(ARGS)

load: .venv/installed-test      ## load tests; see loadtest/README.md
	$(BIN)/python -m loadtest $(ARGS)

lock:                           ## write the hash-pinned locks anew
	$(LOCK) pyproject.toml -o requirements.lock
	$(LOCK) --extra test pyproject.toml -o requirements-test.lock
	$(LOCK) --extra test --extra bench pyproject.toml -o requirements-bench.lock

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: requirements.lock pyproject.toml | .venv/bin/python
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/installed-test: requirements-test.lock pyproject.toml | .venv/bin/python
	$(INSTALL) --require-hashes -r requirements-test.lock
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@ .venv/installed

.venv/installed-bench: requirements-bench.lock pyproject.toml | .venv/bin/python
	$(INSTALL) --require-hashes -r requirements-bench.lock
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@ .venv/installed-test .venv/installed

clean:
	rm -rf .venv build *.egg-info
