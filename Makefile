# Every target makes what it needs, the virtual environment included:
#     make demo            four peers on this machine, one killed on the way (about 8 minutes)
#     make demo MODE=isolated    four owners who train alone (about 5 minutes)
#     make test            unit tests, then real processes on loopback
# Another Python (3.10 to 3.13):    make test PYTHON=python3.12
# Arguments for a program:          make demo ARGS="--seconds 60"

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
MODE ?= swarm
BENCH ?= *
# Exit code 5: no test is left of those that ARGS selects.
SELECTED := $(if $(ARGS),|| [ $$? = 5 ])

# Read by pip also for the environments in which it builds source packages.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test nat testnet check proto bench matrix soak clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP)  ## train a small swarm of four peers here, kill one, assemble, compare
	$(BIN)/python -m node demo --mode $(MODE) $(ARGS)

# Many of the first wait for a time limit: three at a time keep two cores busy.
test: $(STAMP)  ## unit tests, then integration tests with real processes
	$(BIN)/python -m pytest tests/unit tests/exploration tests/fuzz tests/chaos -m "not heavy" -n 3 \
		$(ARGS) $(SELECTED)
	$(BIN)/python -m pytest tests/integration -m "not heavy" $(ARGS) $(SELECTED)

nat: $(STAMP)  ## peers behind routers, in network namespaces (needs root and nftables)
	$(BIN)/python -m pytest tests/nat/test_lab.py
	$(BIN)/python -m pytest tests/nat --ignore tests/nat/test_lab.py -n 2 --dist loadfile $(ARGS)

testnet: $(STAMP)  ## peers in containers, two of them behind routers (needs a Docker engine)
	$(BIN)/python docker/testnet.py $(ARGS)

matrix: $(STAMP)  ## kill and freeze each role at each step, once; ARGS="--repetitions 10"
	$(BIN)/python -m pytest tests/chaos -m heavy --ignore tests/chaos/test_soak.py $(ARGS)

soak: $(STAMP)  ## 30 minutes of random kills, freezes and joins
	$(BIN)/python -m pytest tests/chaos/test_soak.py -m heavy --soak-seconds 1800 $(ARGS)

check: $(STAMP)  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy swarm node

proto: $(STAMP)  ## generate swarm/wire from proto/
	$(BIN)/python proto/generate.py

bench: $(STAMP)  ## run the benchmarks and print their tables; BENCH=allreduce for one
	@set -e; for script in tests/benchmarks/bench_$(BENCH).py; do \
		echo "== $$script"; $(BIN)/python "$$script" $(ARGS); done

clean:  ## remove outputs and caches; the virtual environment stays
	rm -rf build dist demo-out out.json *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt $(wildcard swarm/collective/_*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
		{ echo "needs Python 3.10 to 3.13; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "could not make $(VENV); on Debian: apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@$(BIN)/python -c 'import swarm.collective._kernels' 2> /dev/null || \
		echo "nothing was compiled, so averaging is slower; on Debian: apt install gcc python3-dev," \
		"then rm $@ and make again" >&2
	@touch $@
