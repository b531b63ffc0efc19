# make run    the demo: gateway, slow services, nginx    make test        every test; ARGS="-k name" for some, JOBS=2 side by side
# make lint   style and types                             make test-fresh  the first two in a bare Debian, as root
# make clean  remove what these made                      make bench       measure: see below
# make compiled  the hot modules as C, in place            make pure        without them again
# make test BUILD=compiled  every test on a compiled copy  make wheel       a compiled and a pure wheel, in dist/
#
# Needs Python 3.11 to 3.14. Of several it takes one that was built with profile-guided optimization (scripts/choose-python), unless
# PYTHON= names one. Everything is installed into .venv, which is used as it is once it is there; a second run installs nothing.

PYTHON ?=
ARGS   ?=
JOBS   ?= 1
BUILD  ?= pure
VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/stamps
SETUP  := setup.cfg pyproject.toml
SHELL  := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# What pip and apt are at, a line for each library and package.
define progress
	while read -r line; do case "$$line" in \
		"Collecting "*|"Installing build dependencies: started"|"Installing collected packages: "*|"Setting up "*) echo "  $$line";; \
	esac; done
endef

# $(call pip,what): install that into the environment.
define pip
	$(BIN)/python -m pip install --progress-bar off $(1) | $(progress)
endef

# $(call missing,programs): those of them that are not installed.
define missing
$$(PATH="$$PATH:/usr/sbin:/usr/local/sbin:/opt/homebrew/bin"; for program in $(1); do \
	command -v "$$program" >/dev/null || printf ' %s' "$$program"; done)
endef

# $(call debian,packages): install Debian packages where that is possible, else say what is missing and how to get it.
define debian
	packages="$(1)"; \
	install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$packages | $(progress); }; \
	if [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then \
		echo "Installing with apt: $$packages"; \
		install 2>/dev/null || { apt-get update -qq && install; }; \
	else \
		echo "Missing: $$packages. On Debian or Ubuntu: sudo apt-get install $$packages" >&2; false; \
	fi
endef

.PHONY: run test test-fresh lint ready clean

# What a goal needs beside Python. Where Python has to be installed too, apt runs once for all.
run: PROGRAMS = $(if $(filter --no-nginx,$(ARGS)),,nginx)
ready: PROGRAMS = nginx redis-server memcached openssl

run: $(STAMPS)/run
	@missing="$(call missing,$(PROGRAMS))"; \
	[ -z "$$missing" ] || { $(call debian,$$missing); } || \
		echo "So one instance listens on the port itself, without nginx. Is that meant: make run ARGS=--no-nginx" >&2
	@exec $(BIN)/gateway demo $(ARGS)

ifneq ($(filter-out pure compiled,$(BUILD)),)
$(error BUILD=$(BUILD) is neither pure nor compiled)
endif
ifneq ($(BUILD),compiled)
test: ready
	@$(BIN)/python $(if $(filter 1,$(JOBS)),-m pytest,scripts/run-tests $(JOBS)) $(ARGS)
else
# In a copy of this checkout with an environment of its own, so that nothing here is compiled. What is unchanged in it is not made again.
COPY := build/compiled
.PHONY: copy
copy:
	@mkdir -p $(COPY) && find $(COPY) -type f -not -name '*.so' -not -name '*.sha256' \
		$(foreach name,.venv* build/* *.egg-info/*,-not -path '$(COPY)/$(name)') -delete
	@tar -c --exclude-vcs $(foreach name,./.venv* ./build ./dist *.so *.sha256 *.egg-info __pycache__ .*_cache .hypothesis,--exclude '$(name)') . | \
		tar -x -C $(COPY)

test: $(STAMPS)/venv copy
	@python=$$($(BIN)/python -c 'import sys; print(sys._base_executable)'); \
	cd $(COPY) && $(MAKE) --no-print-directory BUILD= PYTHON="$$python" compiled && \
	GATEWAY_BUILD=compiled $(MAKE) --no-print-directory BUILD= PYTHON="$$python" test
endif

# As somebody meets it who has just installed Debian, make and git: needs root and debootstrap.
test-fresh:
	@ARGS="$(ARGS)" JOBS="$(JOBS)" tests/fresh/bare-debian

# Every one of the three has its say.
lint: $(STAMPS)/lint
	@failed=0; \
	$(BIN)/flake8 || failed=1; \
	$(BIN)/isort --check-only --quiet . || failed=1; \
	$(BIN)/mypy || failed=1; \
	exit $$failed

# All that the tests need. Without these programs, locally, their tests are skipped and say so; with CI=true they fail.
ready: $(STAMPS)/test
	@missing="$(call missing,$(PROGRAMS))"; \
	[ -e /usr/share/php/Illuminate ] || missing="$$missing php-cli php-laravel-framework"; \
	[ -z "$$missing" ] || { $(call debian,$$missing); } || [ "$${CI:-}" != true ]

# An environment that is there already and works is used as it is.
$(STAMPS)/venv:
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		[ -n "$(PYTHON)" ] || command -v python3 >/dev/null || { $(call debian,python3 python3-venv$(call missing,$(PROGRAMS))); }; \
		python=$$(scripts/choose-python $(PYTHON)); \
		"$$python" -c 'import ensurepip' 2>/dev/null || { $(call debian,python$$("$$python" -c 'import platform; \
			print(".".join(platform.python_version_tuple()[:2]))')-venv); }; \
		"$$python" -m venv --clear $(VENV); \
	fi
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/run: $(STAMPS)/venv $(SETUP)
	@echo "Installing into $(VENV)"
	@$(call pip,--editable .)
	@touch $@

$(STAMPS)/test: $(STAMPS)/venv $(SETUP)
	@echo "Installing into $(VENV), with what the tests need"
	@$(call pip,--editable '.[test]')
	@touch $@ $(STAMPS)/run

$(STAMPS)/lint: $(STAMPS)/venv $(SETUP)
	@echo "Installing into $(VENV), with what make lint needs"
	@$(call pip,--editable '.[lint]')
	@touch $@ $(STAMPS)/run

# The modules that setup.py lists, compiled by mypyc beside their sources: Python takes those. Needs a C compiler and Python's headers.
# The stamp knows what they were made from; whether all are there is asked of the package.
.PHONY: compiled pure wheel
compiled:
	@GATEWAY_BUILD=compiled $(BIN)/python -P gateway/build.py 2>/dev/null || rm -f $(STAMPS)/compiled
	@$(MAKE) --no-print-directory $(STAMPS)/compiled

$(STAMPS)/compiled: $(STAMPS)/lint setup.py $(shell find gateway -name '*.py')
	@missing=""; \
	{ read -r compiler; read -r header; read -r python; } < <($(BIN)/python -c 'import os, shlex, sys, sysconfig; \
		print(shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC"))[0]); \
		print(sysconfig.get_path("include") + "/Python.h"); print("python%d.%d" % sys.version_info[:2])'); \
	command -v "$$compiler" >/dev/null || missing="gcc libc6-dev"; \
	[ -e "$$header" ] || missing="$$missing $$python-dev"; \
	[ -z "$$missing" ] || { $(call debian,$$missing); }
	@echo "Compiling into gateway/, which takes some minutes"
	@WICKETGATE_COMPILED=1 $(BIN)/python setup.py --quiet build_ext --inplace --parallel $$(nproc)
	@touch $@

pure:
	@rm -rf build/lib* build/temp* build/gateway build/__native* build/ops.txt $(STAMPS)/compiled wicketgate__mypyc.*.so gateway/compiled.*.sha256
	@find gateway -name '*.so' -delete

# Into dist/, each tried in an environment of its own.
wheel: $(STAMPS)/lint
	@$(BIN)/python scripts/build-wheels dist

# The gateway, pure and compiled, and its peers, measured: ARGS="--quick" tries it, ARGS="--publish" writes docs/performance.md.
BENCH := .venv-bench
.PHONY: bench
bench: $(BENCH)/ready compiled
	@missing="$(call missing,nginx wrk)"; \
	ls /usr/lib*/nginx/modules/ngx_http_echo_module.so >/dev/null 2>&1 || missing="$$missing libnginx-mod-http-echo"; \
	[ -z "$$missing" ] || { $(call debian,$$missing); }
	@exec $(BENCH)/bin/python -m bench.run $(ARGS)

$(BENCH)/ready: $(STAMPS)/venv bench/requirements.txt $(SETUP)
	@echo "Installing into $(BENCH)"
	@[ -x $(BENCH)/bin/python ] || $(BIN)/python -m venv $(BENCH)
	@echo '*' > $(BENCH)/.gitignore
	@$(BENCH)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable . --requirement bench/requirements.txt
	@touch $@

clean: pure
	rm -rf $(VENV) .venv-[0-9]* build dist *.egg-info .mypy_cache .pytest_cache .hypothesis htmlcov .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
