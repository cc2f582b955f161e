# Needs make and Python 3.11 or later with venv; everything else comes from the lock files.
# PYTHON=/path/to/python picks the interpreter; ARGS="…" is passed on to run, test and bench.

SHELL = /bin/sh
VENV = .venv
BIN = $(VENV)/bin
RUNTIME = $(VENV)/.runtime
DEV = $(VENV)/.dev
BINARY = build/binary/venv
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet
COMPILE = $(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --allow-unsafe --no-header \
  --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options

.PHONY: help run test check bench binary audit docs lock clean programs
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(RUNTIME) ## serve on http://127.0.0.1:8080, data in ./data
	@exec $(BIN)/chatd serve $(ARGS)

test: $(DEV) programs ## all tests
	@exec $(BIN)/python -m pytest $(ARGS)

check: $(DEV) ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy docs/generate.py docs/dashboard.py docs/man_page.py .ci/tests.py

bench: $(DEV) ## measure, and save as JSON in bench/results
	@exec $(BIN)/python -m bench $(ARGS)

binary: dist/SHA256SUMS ## chatd as one file and as one folder, in dist: for machines without Python

audit: $(DEV) ## ask the advisory services about everything that is locked; needs the network
	$(BIN)/python -m venv --clear build/audit
	build/audit/bin/python -m pip --disable-pip-version-check --quiet install pip-audit
	for lock in requirements*.lock; do \
	  build/audit/bin/pip-audit --strict --disable-pip --no-deps --requirement $$lock || exit; \
	done
	cd tests/web && npm audit

docs: $(DEV) ## write what is generated from the code: schemas, default configuration, tables
	$(BIN)/python docs/generate.py

lock: $(DEV) ## renew the lock files; with Python 3.11, the oldest one that is supported
	$(PIP) install pip-tools
	$(COMPILE) --output-file requirements.lock pyproject.toml requirements.in
	for group in dev binary; do \
	  $(BIN)/python -c 'import sys, tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"][sys.argv[1]], sep="\n")' \
	    $$group | $(COMPILE) --output-file requirements-$$group.lock --constraint requirements.lock - || exit; \
	done

clean: ## remove what make made; ./data stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The interpreter is tried, not only looked up: a name on the PATH may be a shim without an interpreter behind it.
$(RUNTIME): requirements.lock pyproject.toml
	@ok='import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))'; \
	if ! $(BIN)/python -c "$$ok" 2>/dev/null; then \
	  found=; \
	  for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python); do \
	    if "$$python" -c "$$ok" 2>/dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "make: no Python 3.11 or later with venv: install one (Debian: python3-venv) or say make PYTHON=/path/to/python" >&2; \
	    exit 1; \
	  fi; \
	  "$$found" -m venv --clear $(VENV); \
	fi
	@echo "Installing into $(VENV) …" >&2
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements-dev.lock $(RUNTIME)
	@echo "Installing the development tools …" >&2
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@

# An environment of its own, so that the binary holds what the locks say and nothing that happens to be installed.
$(BINARY)/.made: requirements.lock requirements-binary.lock | $(RUNTIME)
	@echo "Installing what makes the binary …" >&2
	@$(BIN)/python -m venv --clear $(BINARY)
	@$(BINARY)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes \
	  -r requirements.lock -r requirements-binary.lock
	@touch $@

dist/SHA256SUMS: $(BINARY)/.made pyproject.toml docs/chatd.1 \
  $(shell find chatd config/binary config/systemd -type f ! -name '*.pyc')
	@echo "Building …" >&2
	@$(BINARY)/bin/python -P config/binary/build.py

# Tests run against real programs. Root gets the Debian packages, whose services are kept from starting; anybody else a line.
# Each is a program, and behind a colon its package where that has another name.
PROGRAMS = redis-server nginx haproxy caddy chromium npm prometheus fail2ban-client:fail2ban systemd-analyze:systemd \
  systemd-nspawn:systemd-container groff strip:binutils
programs:
	@missing=$$(for one in $(PROGRAMS); do PATH=$$PATH:/usr/sbin command -v "$${one%%:*}" >/dev/null || echo "$${one##*:}"; done); \
	if [ -z "$$missing" ]; then exit; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo "make: missing, and tests that need it will fail:" $$missing "(Debian: apt-get install" $$missing")" >&2; \
	  exit 0; \
	fi; \
	echo "Installing" $$missing "…" >&2; \
	policy=/usr/sbin/policy-rc.d; \
	if [ ! -e $$policy ]; then \
	  trap 'rm -f $$policy' EXIT; \
	  printf '#!/bin/sh\nexit 101\n' >$$policy && chmod 755 $$policy; \
	fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get -qq update && apt-get -qq install --yes --no-install-recommends $$missing >/dev/null
