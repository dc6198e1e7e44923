.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: help run test test-slow test-browser test-postgres test-vllm check experiment bench bench-learners peers schema clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("superalign needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q torch==2.13.0
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@

run: $(VENV)/.installed ## set up, then run the main job: scenarios/arithmetic.yaml
	$(BIN)/superalign run scenarios/arithmetic.yaml

test: $(VENV)/.installed ## set up, then run the tests
	$(BIN)/pytest -n 2 -m 'not slow and not browser and not postgres and not vllm'

test-slow: $(VENV)/.installed ## crash loops and other tests of minutes
	$(BIN)/pytest -m slow

test-browser: $(VENV)/.installed ## the viewer in a real browser; installs Debian's chromium where it is missing
	command -v chromium >/dev/null || (apt-get update -qq && apt-get install -y -qq chromium)
	$(BIN)/pytest -m browser

test-postgres: $(VENV)/.installed ## the store on a PostgreSQL server; installs Debian's where it is missing
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || (apt-get update -qq && apt-get install -y -qq postgresql)
	$(BIN)/pytest -m postgres

VLLM := .vllm

$(VLLM)/.installed: constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --disable-pip-version-check -q torch==2.13.0
	$(VLLM)/bin/pip install --disable-pip-version-check -q --no-deps -r constraints-vllm.txt
	touch $@

test-vllm: $(VENV)/.installed $(VLLM)/.installed ## the vllm engine on a real vLLM, in an environment of its own
	SUPERALIGN_VLLM_PYTHON=$(abspath $(VLLM)/bin/python) $(BIN)/pytest -m vllm -o faulthandler_timeout=600

check: $(VENV)/.installed ## lint, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

experiment: $(VENV)/.installed ## three seeds, four arms: the table in docs/experiments.md
	$(BIN)/python benchmarks/experiment.py

PEERS := .peers

$(PEERS)/.installed: benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --disable-pip-version-check -q -r benchmarks/peers.txt
	touch $@

peers: $(PEERS)/.installed ## the environment of the peers that two benchmarks run against

bench: $(VENV)/.installed $(PEERS)/.installed ## every table of docs/benchmarks.md
	$(BIN)/python benchmarks/overhead.py --picture docs/overhead.png
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/scheduler.py
	$(BIN)/python benchmarks/scaling.py --picture docs/scaling.png
	$(BIN)/python benchmarks/endpoint.py --plot docs/endpoint.png
	$(BIN)/python benchmarks/faults.py
	$(BIN)/python benchmarks/rejudge.py
	$(BIN)/python benchmarks/nyu.py
	$(BIN)/python benchmarks/bitflips.py
	$(BIN)/python benchmarks/viewer.py
	$(BIN)/python benchmarks/oversight.py
	$(BIN)/python benchmarks/digits.py
	$(BIN)/python benchmarks/amplification.py
	$(BIN)/python benchmarks/doubly_efficient.py
	$(BIN)/python benchmarks/prover_estimator.py

LEARNER_BENCHES = learner_speed ppo_speed toy_policies methods compilers noise online scorers selective mixing weak_to_strong degenerate paused collapse self_learners

bench-learners: $(VENV)/.installed ## every table about learners, in two hours
	for name in $(LEARNER_BENCHES); do $(BIN)/python benchmarks/$$name.py || exit; done
	$(BIN)/python benchmarks/noise.py --budget

schema: $(VENV)/.installed ## write the JSON schema of scenarios, langgraph.json, the index of protocols
	$(BIN)/python -c "from superalign.scenarios.scenario import scenario_schema as s; print(s(), end='')" > scenarios/scenario.schema.json
	$(BIN)/python -c "from superalign.scenarios.indexes import write_indexes as w; w()"

clean: ## remove what make made; runs stay
	rm -rf $(VENV) $(PEERS) $(VLLM) build *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
