# Each target creates the virtual environment that it needs and updates it (scripts/update-venv); no
# target asks a question.
#
#   make demo                 five workloads next to Redis and memcached; a queue that survives
#                             `kill -9` of its processes
#   make test                 the fast suite;  ARGS='-k eviction -x' goes to pytest
#   make test SANITIZE=1      the same, compiled with the address and undefined-behaviour sanitizers
#   make test-long            the long suites;  SEED=7 repeats a run, SECONDS=600 ends it after
#                             about ten minutes
#   make test-roce            the suites over verbs in a virtual machine with a soft-RoCE device;
#                             two hosts
#   make dev                  .venv-dev: an editable debug build that recompiles changed modules
#                             on import
#   make lint                 ruff, cython-lint, mypy, stubtest
#   make docs                 docs/_build/html
#   make bench                the speed table: measured, peer, ratio, bar, met or MISSED
#   make clean                remove all files that make created here
#
#   PYTHON=/usr/bin/python3.12   Python interpreter, 3.10 or newer  [default: python3]
#   JOBS=1                       processes of `make test`  [default: 4]
#   V=1                          show the output of pip and the compiler

SHELL := /bin/bash
export PYTHON V
# Most tests wait for leases, time-outs and processes: two processes leave two CPUs half idle.
JOBS ?= 4
BIN := .venv/bin

.PHONY: help demo test test-long test-roce dev lint docs bench clean
help:
	@sed -n '/^# *make /,/^$$/s/^# \{0,1\}//p' Makefile

demo:
	@scripts/update-venv release
	@scripts/bootstrap-deps peers
	@$(BIN)/python scripts/demo $(ARGS)

# A process that dies ends the run: pytest-xdist would start another one and wait for ever for the
# tests of the dead one.
PYTEST = $(if $(SANITIZE),scripts/with-sanitizers .venv-sanitize/bin/pytest,$(BIN)/pytest)
test:
	@scripts/bootstrap-deps tests
	@scripts/update-venv $(if $(SANITIZE),sanitize,release)
	@$(PYTEST) -n $(JOBS) --dist worksteal --max-worker-restart=0 $(ARGS)

test-long:
	@scripts/bootstrap-deps tests
	@scripts/update-venv $(if $(SANITIZE),sanitize,release)
	@$(PYTEST) -m long \
	  $(if $(SEED),--seed=$(SEED)) $(if $(SECONDS),--seconds=$(SECONDS)) $(ARGS)

test-roce:
	@scripts/bootstrap-deps softroce
	@scripts/update-venv release
	@scripts/test-roce $(ARGS)

dev:
	@scripts/update-venv dev
	@echo 'now: source .venv-dev/bin/activate'

lint:
	@scripts/update-venv release lint
	@scripts/lint $(BIN)

docs:
	@scripts/update-venv release docs
	@$(BIN)/sphinx-build -W --keep-going -q -j 2 docs docs/_build/html
	@echo 'docs/_build/html/index.html'

# The commands of $(BIN) run the installed package, not the sources in this folder.
bench:
	@scripts/update-venv release
	@scripts/bootstrap-deps bench
	@$(BIN)/rfp-experiments $(ARGS)

clean:
	rm -rf .venv .venv-* build dist out docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
