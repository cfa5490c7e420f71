# Every target with a "##" comment is shown by `make help`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

VENV := .venv
BIN := $(VENV)/bin
# the development environment is made with the newest interpreter; another: make venv PYTHON=...
PYTHON = $(shell packaging/find-python newest)
DEBIAN_PYTHON := /usr/bin/python3
OLDEST_VERSION := 3.9

QUICK_TESTS := tests/unit tests/property tests/golden tests/sim
PYTEST := $(BIN)/pytest --timeout 300
PROSE := README.md ARCHITECTURE.md CONTRIBUTING.md CHANGELOG.md docs conf.d debian packaging opensvc_hb drivers tests

.PHONY: help setup venv demo lint test test-quick test-suite test-lab test-packaging test-newest test-debian \
	test-oldest sim bench docs deb clean vm-test vm-clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install the Debian packages that building and testing need (as root; only what is missing)
	@packaging/install-system-packages

venv: setup $(BIN)/.tools ## make the development environment, .venv (PYTHON=... chooses another interpreter)

$(BIN)/.tools: packaging/tools.txt setup.cfg pyproject.toml
	@[ -x $(BIN)/python ] || { echo "making $(VENV) with $(PYTHON)"; "$(PYTHON)" -m venv $(VENV); }
	@$(BIN)/pip install --quiet --disable-pip-version-check --requirement packaging/tools.txt --editable '.[test]'
	@touch $@

demo: venv ## two nodes, one service, one node killed: watch the takeover (root: namespaces; else loopback)
	@$(BIN)/python tests/lab/demo.py

lint: venv ## ruff, mypy --strict, import contracts, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell $(PROSE)

test: lint test-suite test-newest test-debian test-oldest test-packaging test-lab vm-test ## everything, as CI runs it (root; 40 minutes)

test-quick: venv ## unit, property and golden tests but the slow ones: no root, under a minute
	$(PYTEST) -n 3 --dist loadgroup -m 'not slow' $(QUICK_TESTS)

test-suite: venv
	@echo; echo "==== quick tests of the tree with $$($(BIN)/python --version) ($(VENV)) ===="
	$(PYTEST) -n 2 --dist loadgroup $(QUICK_TESTS)

test-newest: setup
	@newest=$$(packaging/find-python newest); \
	if [ "$$($$newest --version)" = "$$($(BIN)/python --version 2>/dev/null)" ]; then \
		echo; echo "==== the newest Python here, $$($$newest --version), is that of $(VENV): tested there ===="; \
	else packaging/test-on-python "$$newest" -m 'not slow' $(QUICK_TESTS); fi

test-debian: setup
	@if [ -x $(DEBIAN_PYTHON) ] && command -v dpkg-buildpackage >/dev/null; then \
		packaging/test-on-debian -m 'not slow' $(QUICK_TESTS); \
	else echo; echo "!!!! NOT TESTED: no Debian here, so not with Debian's Python and its packages !!!!"; \
		[ "$$CI" != true ]; fi

test-oldest: setup
	@if oldest=$$(packaging/find-python $(OLDEST_VERSION)); then \
		packaging/test-on-python "$$oldest" tests/unit; \
	else echo; echo "!!!! NOT TESTED: there is no Python $(OLDEST_VERSION) here, the oldest supported !!!!"; fi

test-packaging: venv ## build the wheel and the Debian package, look inside, run what they install
	@echo; echo "==== packaging ===="
	$(PYTEST) tests/packaging

test-lab: venv ## two real nodes in namespaces of this machine (root)
	@echo; echo "==== lab: real nodes in namespaces ===="
	@if packaging/can-run-lab; then $(PYTEST) -n 2 tests/lab; \
	else echo "!!!! NOT TESTED: the lab, for the reason above !!!!"; [ "$$CI" != true ]; fi

vm-test: venv ## two machines with kernels of their own, a shared disk, a plug to pull (root; 15 minutes)
	@echo; echo "==== VM tier: real machines, real disks ===="
	@packaging/install-system-packages packaging/vm-packages.txt
	@if packaging/can-run-vms; then $(BIN)/python tests/vm/image.py && $(PYTEST) --timeout 1000 -n 2 tests/vm; \
	else echo "!!!! NOT TESTED: the VM tier, for the reason above !!!!"; [ "$$CI" != true ]; fi

vm-clean: ## remove the image of the VM tier's machines (1.3 GB)
	rm -rf /var/tmp/opensvc-hb-vm

sim: venv ## 2,000,000 steps of simulated clusters with every kind of fault, on all processors
	$(BIN)/python -m opensvc_hb.sim

bench: venv ## measure against the targets and against keepalived, pacemaker (root; long; QUICK=1: a try)
	@tests/bench/install-peers
	$(BIN)/python tests/bench/bench.py $(if $(QUICK),--quick)

docs: venv ## draw docs/rules.md from the decision table, write svc.env(5) from the keywords
	$(BIN)/python packaging/draw-rules > docs/rules.md
	$(BIN)/python packaging/write-keywords-page > docs/man/svc.env.5

deb: ## build the Debian package into build/
	@packaging/build-deb

clean: ## remove what was built, environments included
	rm -rf build dist *.egg-info .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
