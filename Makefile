# make run    the demo: gateway, slow services, nginx    make test   every test; ARGS="-k name" for some
# make lint   style and types                             make clean  remove what these made
#
# Needs Python 3.10 or newer. Everything is installed into .venv; a second run installs nothing.

PYTHON ?= python3
ARGS   ?=
VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/stamps
SETUP  := setup.cfg pyproject.toml
SHELL  := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# $(call debian,packages): install Debian packages where that is possible, else say what is missing and how to get it.
define debian
	if [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then \
		echo "Installing with apt: $(1)"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null; \
	else \
		echo "Missing: $(1). On Debian or Ubuntu: sudo apt-get install $(1)" >&2; false; \
	fi
endef

.PHONY: run test lint ready clean

run: $(STAMPS)/run
	@exec $(BIN)/gateway demo $(ARGS)

test: ready
	@$(BIN)/python -m pytest $(ARGS)

# Every one of the three has its say.
lint: $(STAMPS)/lint
	@failed=0; \
	$(BIN)/flake8 || failed=1; \
	$(BIN)/isort --check-only --quiet . || failed=1; \
	$(BIN)/mypy || failed=1; \
	exit $$failed

# All that the tests need. Without the servers, locally, their tests are skipped and say so; with CI=true they fail.
ready: $(STAMPS)/test
	@PATH="$$PATH:/usr/sbin:/usr/local/sbin"; missing=; \
	for server in nginx redis-server memcached; do command -v $$server >/dev/null || missing="$$missing $$server"; done; \
	[ -z "$$missing" ] || { $(call debian,$$missing); } || [ "$${CI:-}" != true ]

# An environment that is there already and works is used as it is.
$(STAMPS)/venv:
	@command -v $(PYTHON) >/dev/null || { $(call debian,python3); }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.10 or newer is needed: make PYTHON=..." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ $(call debian,python3-venv); }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/run: $(STAMPS)/venv $(SETUP)
	@echo "Installing into $(VENV)"
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(STAMPS)/test: $(STAMPS)/venv $(SETUP)
	@echo "Installing into $(VENV), with what the tests need"
	@$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(STAMPS)/run

$(STAMPS)/lint: $(STAMPS)/venv $(SETUP)
	@echo "Installing into $(VENV), with what make lint needs"
	@$(BIN)/python -m pip install --quiet --editable '.[lint]'
	@touch $@ $(STAMPS)/run

# The gateway and its peers, measured: ARGS="--quick" tries it, ARGS="--publish" writes docs/performance.md.
BENCH := .venv-bench
.PHONY: bench
bench: $(BENCH)/ready
	@PATH="$$PATH:/usr/sbin:/usr/local/sbin"; missing=; \
	command -v nginx >/dev/null || missing="$$missing nginx"; \
	command -v wrk >/dev/null || missing="$$missing wrk"; \
	ls /usr/lib*/nginx/modules/ngx_http_echo_module.so >/dev/null 2>&1 || missing="$$missing libnginx-mod-http-echo"; \
	[ -z "$$missing" ] || { $(call debian,$$missing); }
	@exec $(BENCH)/bin/python -m bench.run $(ARGS)

$(BENCH)/ready: $(STAMPS)/venv bench/requirements.txt $(SETUP)
	@echo "Installing into $(BENCH)"
	@[ -x $(BENCH)/bin/python ] || $(PYTHON) -m venv $(BENCH)
	@echo '*' > $(BENCH)/.gitignore
	@$(BENCH)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable . --requirement bench/requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .hypothesis htmlcov .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
