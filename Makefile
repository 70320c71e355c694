# Everything runs in .venv, which the first target that needs it makes. PYTHON names another interpreter (3.11 to 3.13).
PYTHON ?= python3
BIN := .venv/bin
# Tests run in this many processes, each with servers of its own.
PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install servers demo up test chaos quick lint bench bench-api gallery screenshots fuzz fuzz-api reference image-check audit sbom soak

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/installed ## the pinned dependencies and this project, in .venv

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "robustreps needs Python 3.11 to 3.13; make PYTHON=python3.12 ... names another")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "cannot make .venv: install Python's venv module (Debian: python3-venv)" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps -e .
	@touch $@

servers: ## Postgres, Redis, S3 and Chromium for the tests and `make up` (Debian packages)
	@sh deploy/install-servers.sh

demo: install ## invert 8 test images under a robust and a standard network, and draw them
	@$(BIN)/robustreps demo

up: install servers ## the whole service on real servers: Postgres, Redis, S3, API, worker
	@$(BIN)/python -m deploy.up

test: install servers lint ## everything, against real servers
	$(PYTEST)

chaos: install servers ## a load under 500 faults: killed workers, broken servers; nothing may be lost (30 minutes)
	@$(BIN)/python -m tests.chaos --seed 1 --faults 500 --minutes 30 --workers 2 --pace 1.5

quick: install ## lint, and the tests that need no server
	@$(MAKE) --no-print-directory lint
	$(PYTEST) -m "not e2e and not slow and not chaos" -k "not postgres and not s3"

fuzz: install ## the doors of images and checkpoints, by Atheris, for SECONDS (default 600)
	@$(BIN)/python -m tests.fuzzing --seconds $(or $(SECONDS),600)

fuzz-api: install servers ## schemathesis on every operation, at random, for as long as EXAMPLES takes (default 300: an hour)
	FUZZ_EXAMPLES=$(or $(EXAMPLES),300) $(PYTEST) tests/service/test_fuzz.py --timeout 3000

reference: install ## the reference of the API into docs/reference.md; the examples in it are `python -m tests.recording`
	@$(BIN)/python -m service.reference > docs/reference.md

audit: install ## known holes in the pinned versions (asks the advisories: needs a network)
	@$(BIN)/python -m deploy.audit

sbom: install ## what requirements.lock brings, as CycloneDX, into runs/sbom.json
	@mkdir -p runs && $(BIN)/cyclonedx-py requirements --output-reproducible --pyproject pyproject.toml --output-file runs/sbom.json requirements.lock

image-check: install servers ## build the images without a registry, and run them (root; 30 GB; 10 minutes on 2 cores)
	@command -v buildah >/dev/null && command -v debootstrap >/dev/null || apt-get install -y --no-install-recommends buildah debootstrap
	@$(BIN)/python -m deploy.image_check

lint: install ## ruff and mypy, strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

gallery: install ## every figure on the shipped networks, into deploy/gallery and the README (20 minutes on 2 cores)
	@$(BIN)/python -m workers.gallery

screenshots: install servers ## the pictures of the dashboard in deploy/gallery (5 minutes on 2 cores)
	@$(BIN)/python -m deploy.screenshots

bench: install ## image-steps, the service, training and evaluation, each against a plain loop in one run
	@$(BIN)/python -m bench.steps --items 10 100 1000 10000 100000 --out runs/bench-steps.json
	@$(BIN)/python -m bench.worker --out runs/bench-worker.json
	@$(BIN)/python -m bench.training
	@$(BIN)/python -m bench.evaluation

bench-api: install servers ## submissions and polls a second beside FastAPI's hello-world, while a worker computes
	@$(BIN)/python -m bench.api --out runs/bench-api.json

soak: install servers ## an hour of mixed load; fails if memory, files, threads or connections grow (MINUTES=60)
	@$(BIN)/python -m bench.soak --minutes $(or $(MINUTES),60) --out runs/soak.json
