# Two commands for everyone: `make demo` and `make test`. Each sets up .venv by itself, and only when needed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
HOME_DIR ?= demo-home
# More threads than cores make torch on CPU several times slower; one is also what bit-equality is recorded under.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false

.PHONY: demo test lint types imports tests bench bulk-env bulk-cluster-env peers-env prove clean setup

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (a minute or two, about 2 GB)"
	@$(BIN)/python -m pip install -q -U pip
	@$(BIN)/python -m pip install -q -c constraints.txt -e ".[demo,dev]"
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/custody demo --home $(HOME_DIR)

test: $(STAMP) lint types imports tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

# Two workers; tests/conftest.py says which tests stay together and what is begun first.
tests: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Long proofs: make prove PROOF=kills. Resumable; results are appended to docs/proofs.md.
prove: $(STAMP)
	@test -n "$(PROOF)" || { echo "say which: make prove PROOF=name; there are:"; ls tests/proofs/*.py | sed 's|.*/||; s|\.py||'; exit 2; }
	$(TEST_ENV) $(BIN)/python -m tests.proofs.$(PROOF)

# Benchmarks compare side by side in one run and append to docs/benchmarks.md.
bench: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m tests.benchmarks $(BENCH)

# img2dataset's pins contradict ours: an environment of its own, called as a subprocess.
bulk-env: .bulk-venv/.installed

.bulk-venv/.installed: constraints-bulk.txt
	@test -x .bulk-venv/bin/python || $(PYTHON) -m venv .bulk-venv
	@.bulk-venv/bin/python -m pip install -q -U pip
	@.bulk-venv/bin/python -m pip install -q -c constraints-bulk.txt img2dataset==1.47.0
	@touch $@

# The same with Spark and Ray for bulk.distributor (1.5 GB; Spark wants Java 17). Apart, since img2dataset imports Ray
# wherever it is there, which costs every process of the other environment a third of a second.
bulk-cluster-env: .bulk-cluster-venv/.installed

.bulk-cluster-venv/.installed: constraints-bulk.txt
	@test -x .bulk-cluster-venv/bin/python || $(PYTHON) -m venv .bulk-cluster-venv
	@echo '*' > .bulk-cluster-venv/.gitignore
	@.bulk-cluster-venv/bin/python -m pip install -q -U pip
	@.bulk-cluster-venv/bin/python -m pip install -q -c constraints-bulk.txt img2dataset==1.47.0 pyspark ray
	@touch $@

# What the benchmarks `peers` and `pages` compare with, beside img2dataset: in an environment of its own too.
peers-env: .peers-venv/.installed

.peers-venv/.installed: constraints-peers.txt
	@test -x .peers-venv/bin/python || $(PYTHON) -m venv .peers-venv
	@.peers-venv/bin/python -m pip install -q -U pip
	@.peers-venv/bin/python -m pip install -q -c constraints-peers.txt datadiligence==0.1.7 beautifulsoup4 lxml
	@touch $@

clean:
	rm -rf $(VENV) .bulk-venv .bulk-cluster-venv .peers-venv demo-home .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist build *.egg-info
