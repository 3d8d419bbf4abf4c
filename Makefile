# make quickstart   set up this machine and run the whole loop on real DFT (a quarter to half an hour)
# make test         set up this machine, with Chromium, and run the tests
# make lint         ruff and mypy
# make test-slow    the tests that take minutes
# make paper        the paper's experiments on data/lmfp-gpaw, into docs/paper.md (hours); make paper-quick: minutes
# make model        the model in models/, from data/lmfp-gpaw
# make test-cluster install Slurm, too, and run the tests on a queue (root)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# What GPAW is compiled against and runs with; g++ compiles training steps.
PACKAGES := gcc g++ python3-dev python3-venv libxc-dev libopenblas-dev libfftw3-dev openmpi-bin libopenmpi-dev
# What the tests open reports in; Ubuntu has it as a snap only, and without it those tests are skipped.
TEST_PACKAGES := $(shell grep -qs '^ID=ubuntu' /etc/os-release || echo chromium)
# What the tests on a queue start.
CLUSTER_PACKAGES := slurm-wlm munge

.PHONY: quickstart paper paper-quick model test test-slow test-cluster lint install system clean

quickstart: install
	$(BIN)/mfal run configs/quickstart.yaml

# Both go on where they stopped.
paper: install
	$(BIN)/python -m benchmarks.paper --plots docs/paper --page docs/paper.md
	$(BIN)/python -m benchmarks.acquisition --data data/lmfp-gpaw --seeds 3 --compile --plot docs/paper/acquisition.svg --page docs/paper.md

paper-quick: install
	$(BIN)/python -m benchmarks.paper --quick --results runs/paper/quick.jsonl
	$(BIN)/python -m benchmarks.acquisition --data data/lmfp-gpaw --seeds 1 --rounds 1 --epochs 2 --results runs/paper/quick-rules.jsonl

model: install
	$(BIN)/mfal train data/lmfp-gpaw --strategy high-only --config configs/lmfp-model.yaml --out runs/lmfp-model
	$(BIN)/mfal fold runs/lmfp-model --out models/lmfp-magnetic.pth.tar

test test-slow: PACKAGES += $(TEST_PACKAGES)
test: install
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m "not slow and not cluster"

test-slow: install
	$(BIN)/python -m pytest -m "slow and not cluster"

# Slurm's daemons are not those of the machine: the tests start their own, and end them.
test-cluster: PACKAGES += $(CLUSTER_PACKAGES)
test-cluster: install
	$(SUDO) env MFAL_CLUSTER=1 $(BIN)/python -m pytest -m cluster

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml | system
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mfal needs Python 3.11 or newer, and $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[gpaw,dev]'
	@touch $@

# Asks for nothing and installs nothing when all is there already.
system:
	@command -v apt-get >/dev/null || { echo "No apt-get here: install the equivalents of $(PACKAGES)"; exit 0; }; \
	missing=$$(for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	[ -z "$$missing" ] || { echo "Installing with apt-get:" $$missing; \
	$(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing; }

clean:
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache
