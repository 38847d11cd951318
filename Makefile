# Every target works from a fresh clone: `setup` builds what is missing and is instant when nothing is.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
PY := .venv/bin/python
LOCAL := $(PY) -m deploy.local
SOURCES := $(wildcard libs/*/src services/*/src) deploy tests benchmarks

.PHONY: setup demo test up down logs ps topology check proof prove-cap chaos bench bench-fairness bench-replay bench-money bench-run compose-test help

setup: ## build .venv from the lock (skipped when it is current)
	@deploy/local/setup.sh

demo: setup ## start the whole stack, run tasks of all three tiers against it, print the table, stop
	@$(LOCAL) demo

test: setup ## run every test against real RabbitMQ, PostgreSQL and Redis (ARGS="tests/unit -k lanes")
	@$(PY) -m pytest -n 4 --dist loadfile $(ARGS)

up: setup ## start the stack in the background and write .laneway/demo.env (LANEWAY_RUNTIME=native: not by Docker)
	@$(LOCAL) up

down: setup ## stop the stack; its data stays (CLEAN=1 removes it)
	@$(LOCAL) down

logs: setup ## show the logs (NAME=gateway for one, ARGS=-f to follow)
	@$(LOCAL) logs $(NAME) $(ARGS)

ps: setup ## show what runs: name, process, state, uptime, ports, memory
	@$(LOCAL) ps

topology: setup ## apply the queues, exchanges, policies and users to the running stack
	@$(LOCAL) topology

check: setup ## lint, formatting and types
	@.venv/bin/ruff check --quiet .
	@.venv/bin/ruff format --quiet --check . || { echo "run: .venv/bin/ruff format ."; exit 1; }
	@.venv/bin/mypy --no-error-summary $(SOURCES)

proof: setup ## prove all books of the running stack: caps, holds, usage, invoices, and the simulator's audit
	@$(PY) -m deploy.proof $(ARGS)

prove-cap: setup ## attack the money on a stack of its own, then prove every book (ARGS="--tenants 24 --runs 25")
	@$(PY) -m tests.proving $(ARGS)

chaos: setup ## kill a run's worker at every point of the run, on a stack of its own (ARGS="--stand" stops it instead)
	@$(PY) -m tests.chaos $(ARGS)

bench: setup ## measure, print the table (ARGS=submit for one, ARGS=--save to keep all in docs/)
	@$(PY) -m benchmarks $(ARGS)

bench-fairness: setup ## measure who is served: shares, waits beside a crowd, cancels (ARGS=tiers, ARGS=--save)
	@$(PY) -m benchmarks.fairness $(ARGS)

bench-replay: setup ## replay a real workload at 40, 80 and 120 % of capacity (TRACE=file.csv, ARGS=--save)
	@$(PY) -m benchmarks.replay "$(TRACE)" $(ARGS)

bench-money: setup ## measure holds, settlement, the proof and a month's invoice (ARGS=holds for one, ARGS=--save)
	@$(PY) -m benchmarks.money $(ARGS)

bench-run: setup ## measure runs: overhead of a call, relayed tokens, crash, reconnect (ARGS=crash for one, ARGS=--save)
	@$(PY) -m benchmarks.runs $(ARGS)

compose-test: setup ## start docker-compose.yml and check it end to end (needs a Docker engine)
	@$(PY) -m deploy.compose_test

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile
