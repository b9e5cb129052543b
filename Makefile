# One virtual environment, .venv, holds the sidecar, the engine and the tools.
# The stamps in it make a second run install nothing.

SHELL := /bin/bash
PYTHON ?= python3
TESTS ?= tests
UV := $(shell grep '^uv==' requirements-dev.txt)
VENV := .venv
BIN := $(VENV)/bin
PIP := scripts/pip-install.sh $(BIN)/python
SHELL_SCRIPTS = $(wildcard scripts/*.sh bench/*.sh tests/engine/*.sh) .ci/run
# Per cent of statements and branches that all tests together must reach; some tests need not run.
COVERAGE := 94
# Two that run side by side do not write to one file.
ENGINE_COVERAGE := .engine-coverage
# More than there are cores, for all but real vLLM.
PROCESSES := 3
PYTEST := $(BIN)/python -m pytest
# Compiling all that is installed takes longer than installing it; Python compiles what it imports.
export PIP_NO_COMPILE := 1
export PIP_NO_WARN_CONFLICTS := 1
# In the order of tests/conftest.py.
BY_FILE := --dist=loadfile --no-loadscope-reorder
# The files that hold tests with real vLLM or alone: to look at all others takes ten seconds a process.
MARKED = $(shell grep -rlE --include='test_*.py' 'pytest\.mark\.(engine|alone)' tests | sort)
# Those that take longest begin first: they run two at a time.
CHECKS = "mypy" "python scripts/engine_flags.py --check" "scripts/check-monitoring.sh" \
  "bandit -q -c pyproject.toml -r proxy scripts" "mkdocs build --strict" "ruff check ." "ruff format --check ." \
  "shellcheck $(SHELL_SCRIPTS)" "hadolint Dockerfile deploy/fleet/Dockerfile" \
  "python scripts/prometheus_rule.py --check" "python scripts/reference.py --check" \
  "python monitoring/dashboards.py --check" "python scripts/audit.py" \
  "python scripts/check_links.py" "codespell *.md docs proxy scripts deploy monitoring examples .github" \
  "actionlint" "zizmor --offline --quiet .github" \
  "check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml" \
  "check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/wish.yml"

# Empty stamps: what was installed from which file, and when.
MADE := $(VENV)/.made-stamp
REQUIREMENTS := $(VENV)/.requirements-stamp
ENGINE := $(VENV)/.engine-stamp
TOOLS := $(VENV)/.tools-stamp

.DEFAULT_GOAL := help
.PHONY: help run test coverage check unit floors bench image release clean all-tools system-tools peers postgresql
# Targets that run something need the whole environment, in this order.
.NOTPARALLEL:

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# PYTHON, which may be said to make, made .venv; start.sh would run the sidecar by it.
run: $(REQUIREMENTS) $(ENGINE) ## install what is missing, then serve: MODEL_NAME=... make run
	@unset PYTHONDONTWRITEBYTECODE; PATH="$(CURDIR)/$(BIN):$$PATH" PYTHON= exec scripts/start.sh

# Most tests wait for other processes most of the time, so real vLLM starts beside them; it starts
# on one core. Those that measure have the machine for themselves. Python may keep what it
# compiles: hundreds of processes are started.
define EVERY_TEST
failed=; unset PYTHONDONTWRITEBYTECODE; \
$(BIN)/python scripts/side_by_side.py \
  "$(PYTEST) --numprocesses=$(PROCESSES) $(BY_FILE) -m 'not engine and not alone' tests" \
  "env COVERAGE_FILE=$(ENGINE_COVERAGE) $(PYTEST) --numprocesses=2 $(BY_FILE) -m 'engine and not alone' $(MARKED)" \
  || failed=1; \
$(PYTEST) -m alone $(MARKED) || failed=1; \
[[ -z $$failed ]]
endef
RUN_TESTS = $(if $(filter tests,$(TESTS)),$(EVERY_TEST),$(PYTEST) $(TESTS))

test: all-tools ## all tests, real vLLM included; TESTS=tests/wire for some
	@$(RUN_TESTS)

# It takes nearly twice the time of `test`; a workflow runs it each day.
coverage: PYTEST += --cov --cov-branch --cov-append --cov-report=
coverage: all-tools ## all tests, measured: fails where they run too little of the sidecar
	@$(BIN)/coverage erase; failed=; ($(RUN_TESTS)) || failed=1; \
	[[ ! -e $(ENGINE_COVERAGE) ]] || $(BIN)/coverage combine --append $(ENGINE_COVERAGE); \
	$(BIN)/coverage report --skip-covered $(if $(filter tests,$(TESTS)),--fail-under=$(COVERAGE)) || failed=1; \
	[[ -z $$failed ]]

check: $(REQUIREMENTS) $(ENGINE) $(TOOLS) system-tools ## lint, types, shell, Docker, RunPod, flags, alerts, security, links, spelling, the site, workflows
	@PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 python scripts/side_by_side.py $(CHECKS)

unit: ## unit tests on the newest versions; no vLLM, no root
	@$(PYTHON) scripts/floors.py newest

# Not a part of `check`: two environments more, and minutes. A workflow runs it for each change.
floors: ## the same on the oldest and on the newest versions that requirements.txt allows; no vLLM
	@$(PYTHON) scripts/floors.py

bench: $(REQUIREMENTS) $(ENGINE) $(TOOLS) ## the side-by-side benchmark
	$(BIN)/python -m bench
	$(BIN)/python -m bench --real

image: $(REQUIREMENTS) $(ENGINE) $(TOOLS) ## build the image on a stand-in for vLLM's and run it; root on Debian, no GPU, no Docker
	@REQUIRE_TOOLS=1 scripts/install-tools.sh image
	IMAGE_TESTS=1 $(BIN)/python -m pytest tests/image

release: $(REQUIREMENTS) $(ENGINE) $(TOOLS) ## check and build a release, VERSION=0.1.0; with PUBLISH=1 tag and push it
	@$(BIN)/python scripts/release.py $(if $(PUBLISH),--publish) $(VERSION)

clean: ## remove .venv and every cache of the tools
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* $(ENGINE_COVERAGE)*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(MADE):
	@echo "make: creating $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: error: $(PYTHON) is $$($(PYTHON) -V 2>&1), vLLM needs 3.11 or newer;" \
	    "name another: make $(or $(MAKECMDGOALS),run) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "make: error: cannot create $(VENV); on Debian and Ubuntu:" \
	    "apt-get install python3-venv" >&2; exit 1; }
	@$(PIP) --quiet $(UV) || echo "make: no $(UV) here: pip installs, which takes longer"
	@touch $@

# The engine first: it decides the versions of what it shares with the sidecar.
$(ENGINE): requirements-engine.txt scripts/install-engine.sh | $(MADE)
	@scripts/install-engine.sh $(VENV)
	@touch $@

$(REQUIREMENTS): requirements.txt $(ENGINE) | $(MADE)
	@echo "make: installing the sidecar's requirements"
	@$(PIP) --quiet -r requirements.txt
	@touch $@

# No stamp: they are in the machine, not in .venv. Where they are there this takes milliseconds.
system-tools:
	@scripts/install-tools.sh

# Below .cache, each by itself: a second run installs nothing.
peers:
	@bench/install-peers.sh vllm-router litellm prisma langchain-openai pydantic-ai node-clients

# The two have nothing in common.
all-tools: $(MADE)
	@$(MAKE) --no-print-directory peers & \
	$(MAKE) --no-print-directory $(REQUIREMENTS) $(ENGINE) $(TOOLS) system-tools postgresql; code=$$?; \
	wait $$! && exit $$code

postgresql:
	@bench/install-peers.sh postgresql

$(TOOLS): requirements-dev.txt constraints-dev.txt $(ENGINE) | $(MADE)
	@echo "make: installing the tools for tests and checks"
	@$(PIP) --quiet -r requirements-dev.txt -c constraints-dev.txt
	@touch $@
