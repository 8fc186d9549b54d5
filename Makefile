# Every task that a person does. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

PYTHON ?= python3
UV_VERSION := 0.13.8
CACHE := $(or $(AGENTOS_CACHE),$(HOME)/.cache/agentos)
UV := $(CACHE)/uv-$(UV_VERSION)/bin/uv
VENV := .venv
PY := $(VENV)/bin/python
MEMBERS := contracts engine operator workers cli
CLUSTER := $(PYTHON) -m tests.cluster
PARALLEL ?= --numprocesses 2 --dist loadscope --no-loadscope-reorder

.PHONY: help setup lock crds docs screenshots lint check test test-long bench demo demo-down cluster cluster-down kubeconfig engine-urls image wheels clean

help: ## list these tasks
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(UV):
	@echo "installing uv $(UV_VERSION) into $(CACHE)"
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=python3.x") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(CACHE)/uv-$(UV_VERSION)
	$(CACHE)/uv-$(UV_VERSION)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/.ready: $(UV) requirements.lock requirements-dev.lock $(MEMBERS:%=%/pyproject.toml)
	@echo "making $(VENV) with all members"
	[ -x $(PY) ] || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	$(UV) pip sync --quiet --python $(PY) --require-hashes requirements.lock requirements-dev.lock
	$(UV) pip install --quiet --python $(PY) --no-deps --no-build-isolation $(MEMBERS:%=-e %)
	touch $@

setup: $(VENV)/.ready ## make .venv with all members and tools installed

lock: $(UV) ## write requirements*.lock anew from the members' pyproject.toml
	$(UV) pip compile --quiet --universal --generate-hashes --custom-compile-command "make lock" \
	  --no-emit-package agentos --no-emit-package agentos-contracts --no-emit-package agentos-engine \
	  --no-emit-package agentos-operator --no-emit-package agentos-workers pyproject.toml -o requirements.lock
	$(UV) pip compile --quiet --universal --generate-hashes --custom-compile-command "make lock" \
	  --group dev -c requirements.lock -o requirements-dev.lock

crds: setup ## write crds/ from the models in contracts
	@$(PY) -m agentos_contracts.crd crds

docs: setup ## write the generated docs pages
	@$(PY) -m agentos_contracts.reasons > docs/conditions.md
	$(PY) -m tests.compat_table
	$(PY) -m tests.metrics_page
	$(PY) -m tests.manifest_page

screenshots: setup ## take the pictures of docs/console.md anew
	@AGENTOS_SCREENSHOTS=1 $(PY) -m pytest -q tests/browser/test_screenshots.py

lint: setup ## format check, lint, types, import layers
	@$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/pyright

check: setup ## what must hold of the tree: manifests, reserved names, generated files
	@$(PY) -m tests.tree

test: setup ## unit tests, SDK compatibility, and end-to-end tests on a real cluster
	@$(PY) -m pytest -m "not long" $(PARALLEL) $(ARGS)

test-long: setup ## everything, the long tests too
	@$(PY) -m pytest $(ARGS)

bench: setup ## measure: calls, HTTP, queues, start-up, WebAssembly; with a kept cluster also apply → Ready
	@for part in bus events rest startup scale; do $(PY) -m tests.bench.$$part; done
	$(PY) -m tests.bench.report
	$(PY) tests/bench/wasm_cold_start.py
	$(PY) -m tests.bench.up
	$(PY) -m tests.bench.apply_to_ready

demo: setup ## the whole path on a real cluster: KEEP=1 leaves it up
	@$(PY) -m tests.demo

demo-down: cluster-down ## remove a cluster that KEEP=1 left

cluster: setup ## bring up a cluster by hand
	@$(CLUSTER) up

cluster-down: ## remove the cluster and every trace of it
	@$(CLUSTER) down

kubeconfig: ## print the path of a kept cluster's kubeconfig
	@$(CLUSTER) kubeconfig

engine-urls: ## print ws=… (with a token for this host), http=… and its key=… of a kept cluster's default realm
	@$(PYTHON) -m tests.demo urls

image: ## build the project's image
	@$(CLUSTER) image

wheels: setup ## build all wheels into OUT (default: dist)
	@for member in $(MEMBERS); do $(UV) build --quiet --wheel --out-dir $(or $(OUT),dist) --python $(PY) --no-build-isolation $$member; done
	ls $(or $(OUT),dist)

clean: ## remove what setup and tests left in the tree
	@rm -rf $(VENV) dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
