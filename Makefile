# Every command of the project; `make` alone lists them.

PYTHON ?= python3
ARGS ?=
PYTEST_ARGS ?=

bin := .venv/bin
pip_install := $(bin)/python -m pip install -qq --disable-pip-version-check

# A missing or dangling interpreter has .venv made anew.
no_venv := $(shell test -x $(bin)/python || echo venv)

# Tests wait for other processes as long as they work: two for each processor.
test_workers := $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1))

pooled_tests := $(patsubst %,tests/integration/test_%.py,loading insert upsert transactions parts pipeline same_content \
	bad_content bad_files bad_input bad_records daemon database_faults edi_files edi_orders destinations \
	outbound outbound_held outbound_rules pooler) \
	$(patsubst %,tests/acceptance/test_%.py,crash edi_crash outbound_crash several_daemons)

.DEFAULT_GOAL := help
.PHONY: help run demo test test-pooler lint format reference bench bench-full bench-peers lock audit pin-images clean system-deps venv

help: ## list these commands
	@echo "Tidegate: drop a JSON file into input/, find its rows in PostgreSQL."
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

run: .venv/run.stamp ## start the daemon (ARGS="--help" passes arguments)
	@exec $(bin)/python main.py run $(ARGS)

demo: .venv/run.stamp ## the daemon among stand-ins of all partner systems, and a stream through all flows
	@exec $(bin)/python main.py demo $(ARGS)

test: .venv/dev.stamp system-deps ## run every test (PYTEST_ARGS="-k ledger -n 0" narrows it)
	$(bin)/python -m pytest -n $(test_workers) $(PYTEST_ARGS)

test-pooler: .venv/dev.stamp system-deps ## run the tests of loading and outbound through a PgBouncer in transaction mode
	$(bin)/python -m pytest -n $(test_workers) --through-pgbouncer $(PYTEST_ARGS) $(pooled_tests)

lint: .venv/dev.stamp ## ruff, format check, strict mypy, who may import whom
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports --no-logo

format: .venv/dev.stamp ## format the code and mend what ruff can mend
	$(bin)/ruff check --fix-only .
	$(bin)/ruff format .

reference: .venv/dev.stamp ## write .env.example and the README's flow table from the declarations
	$(bin)/python -m commands.reference

bench: .venv/dev.stamp ## measure floor and product in turn, into docs/performance.md (ARGS="edi latency" narrows it)
	$(bin)/python -m benchmarks --record $(ARGS)

bench-full: .venv/dev.stamp ## measure what is large: up to an hour, and 10 GB of disk
	$(bin)/python -m benchmarks --suite full --record $(ARGS)

bench-peers: .venv/dev.stamp .venv/peers.stamp ## measure dlt and Pathway on the same files, in an environment of theirs
	$(bin)/python -m benchmarks --suite peers --record $(ARGS)

lock: .venv/tools.stamp ## write requirements.lock from requirements.txt (ARGS="--upgrade" takes newer packages below it)
	.venv/tools/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command "make lock" -o requirements.lock requirements.txt $(ARGS)

audit: .venv/tools.stamp ## tell known vulnerabilities of the locked packages; it never fails
	@.venv/tools/bin/pip-audit --disable-pip --require-hashes -r requirements.lock $(ARGS) || \
		echo "Read these; nothing depends on it."

pin-images: ## pin the images of Dockerfile and docker-compose.yaml by their digests, in docker-compose.override.yaml
	@sh deploy/pin-images.sh

clean: ## remove .venv and caches, never .data/, input/ or what was filed
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -path ./.git -prune -o -path ./.data -prune -o -type d -name __pycache__ -exec rm -rf {} +

# What tests need beyond Python. Where it cannot be installed they skip it, and this says so.
system-deps:
	@missing=; \
	command -v systemd-analyze >/dev/null || missing=" systemd"; \
	PATH="$$PATH:/usr/sbin" command -v sshd >/dev/null || missing="$$missing openssh-server"; \
	command -v sftp >/dev/null || missing="$$missing openssh-client"; \
	command -v curl >/dev/null || missing="$$missing curl"; \
	command -v jq >/dev/null || missing="$$missing jq"; \
	PATH="$$PATH:/usr/sbin" command -v pgbouncer >/dev/null || missing="$$missing pgbouncer"; \
	[ -n "$$missing" ] || exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing$$missing for the tests of deploy/tidegate.service, of SFTP, of poolers and of docs/api.md ..." | tr -s ' '; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends $$missing; } >/dev/null && exit 0; \
	fi; \
	echo "Tests of deploy/tidegate.service, of SFTP, of poolers and of docs/api.md are skipped for want of:" $$missing; \
	echo "To run them too, install it (Debian, Ubuntu: sudo apt-get install" $$missing")" >&2

.venv/run.stamp: requirements.lock $(no_venv)
	@echo "Installing requirements.lock into .venv ..."
	@$(pip_install) --require-hashes -r requirements.lock
	@touch $@

.venv/dev.stamp: requirements-dev.txt .venv/run.stamp
	@echo "Installing requirements-dev.txt into .venv ..."
	@$(pip_install) -r requirements-dev.txt
	@touch $@

.venv/tools.stamp: requirements-tools.txt $(no_venv)
	@echo "Installing requirements-tools.txt into .venv/tools ..."
	@$(bin)/python -m venv --clear .venv/tools
	@.venv/tools/bin/python -m pip install -qq --disable-pip-version-check -r requirements-tools.txt
	@touch $@

.venv/peers.stamp: requirements-peers.txt $(no_venv)
	@echo "Installing requirements-peers.txt into .venv/peers ..."
	@$(bin)/python -m venv --clear .venv/peers
	@.venv/peers/bin/python -m pip install -qq --disable-pip-version-check -r requirements-peers.txt
	@touch $@

venv:
	@command -v $(PYTHON) >/dev/null || { \
		echo "Tidegate needs Python 3.11 or newer, and there is no $(PYTHON) here:" \
			"install it (Debian, Ubuntu: apt-get install python3 python3-venv)," \
			"or name yours, as in make run PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Tidegate needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1):" \
			"install a newer one and name it, as in make run PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) comes without venv, which .venv is made with:" \
			"install it (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@echo "Creating .venv (once) ..."
	@$(PYTHON) -m venv --clear .venv || { rm -rf .venv; exit 1; }
