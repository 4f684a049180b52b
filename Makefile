# Every command sets up what it needs. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

install: .venv/installed ## Make .venv with everything pinned in requirements.lock

.venv/installed: requirements.lock pyproject.toml
	@scripts/make-venv "$(PYTHON)"
	@touch $@

demo: install ## Watch the main job happen; ARGS=--once ends by itself, ARGS=--hlr plays with a real HLR
	@$(BIN)/python examples/demo/demo.py $(ARGS)

screenshots: install ## Take the pictures of docs/console.md anew, from the demo
	@$(BIN)/python examples/demo/screenshots.py $(ARGS)

test: install ## Run every test; make test ARGS='-k queue' runs some
	@scripts/need-servers
	@$(BIN)/pytest -n 4 --dist worksteal $(ARGS)

coverage: install ## Run every test, a third slower, and see what they do not reach
	@scripts/need-servers
	@$(BIN)/pytest -n 4 --dist worksteal --cov --cov-report=term:skip-covered --cov-fail-under=95 $(ARGS)

chaos: install ## Let a storm rage over it; make chaos MINUTES=60 SEED=42
	@scripts/need-servers
	@CHAOS_MINUTES=$(or $(MINUTES),5) CHAOS_SEED=$(or $(SEED),random) $(BIN)/pytest -s \
	  -p no:randomly tests/chaos/test_storm.py tests/integration/test_queue_model.py \
	  tests/unit/test_lanes.py $(ARGS)

lint: install ## Check format, style, types, floors and dependencies
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/deptry .

format: install ## Format the code and mend what can be mended without thinking
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: install ## Measure beside the peers; QUICK=1: a smoke run; ARGS='--only drain,latency'
	@scripts/need-servers
	@$(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(ARGS)

lock: ## Pin the newest versions of everything in requirements.lock
	@$(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip install -q uv
	@.venv-lock/bin/uv pip compile -q --universal --upgrade --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --all-extras --group dev pyproject.toml \
	  -o requirements.lock
	@rm -r .venv-lock

clean: ## Remove what the commands above made
	rm -rf .venv var .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*

.PHONY: help install demo screenshots test coverage chaos lint format bench lock clean
