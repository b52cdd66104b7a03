# Every target does its own set-up in .venv; none needs another to be run by hand first.
#   make demo [BUNDLE=ladp] | test | test-all | lint | bench | packages | clean
# A machine without a GPU needs no CUDA packages: give pip the CPU index of PyTorch with
#   make demo TORCH_ARGS="--index-url <the CPU wheel index from pytorch.org>"

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
# one thread each: small tensors gain nothing from more, and several workers would fight for the cores;
# a file's tests stay together, since they look at one training
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile
RUN := $(BIN)/python -m monai.bundle run --config_file
BUNDLE ?= ladp
CONFIGS := bundles/$(BUNDLE)/configs
DEMO := bundles/$(BUNDLE)/eval/demo
TRAIN := $(CONFIGS)/train.json','$(CONFIGS)/quick.json
# the trivial rule that stands beside each bundle, and the size of the cohort that both are measured on
RULE_ladp := variant_zscore_rule.json
COHORT_ladp := --simulated::subjects 20
RULE_position_regression := variant_threshold.json
COHORT_position_regression := --simulated::healthy 30
RULE_patchddm := variant_threshold.json
COHORT_patchddm := --simulated::subjects 20
RULE_neonatal_inr := variant_neighbours.json
COHORT_neonatal_inr := --simulated::subjects 30
RULE_disruptive_autoencoder := variant_intensity_rule.json
COHORT_disruptive_autoencoder := --simulated::subjects 20
# its rule is measured beside its anomaly maps
RULE_brain_autoencoder := evaluate_anomaly.json
COHORT_brain_autoencoder := --simulated::subjects 25
# a cohort that no setting was chosen on; seeds 1-99 are for choosing settings
TEST_SEED ?= 1001

.PHONY: demo test test-all lint bench packages clean

$(VENV)/.installed: requirements.txt pyproject.toml setup.py
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 10), 'Python 3.10 or newer is needed, found ' + sys.version"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH_ARGS) "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "setuptools>=77"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e ".[dev]"
	touch $@

demo: $(VENV)/.installed
	$(RUN) "['$(TRAIN)']" --output_dir $(DEMO)
	$(RUN) "['$(TRAIN)','$(CONFIGS)/evaluate.json','$(CONFIGS)/$(RULE_$(BUNDLE))']" \
		--evaluate_on all $(COHORT_$(BUNDLE)) --simulated::seed $(TEST_SEED) --output_dir $(DEMO)/rule
	$(RUN) "['$(TRAIN)','$(CONFIGS)/evaluate.json']" \
		--evaluate_on all $(COHORT_$(BUNDLE)) --simulated::seed $(TEST_SEED) --output_dir $(DEMO)

test: $(VENV)/.installed-dev
	$(TESTS) --durations=10

test-all: $(VENV)/.installed-dev
	$(TESTS) --durations=20 -m "slow or not slow"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy common

bench: $(VENV)/.installed-dev
	for script in tests/benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

packages: $(VENV)/.installed
	$(BIN)/python -m common.packaging build
	$(BIN)/python -m common.packaging index

clean:
	rm -rf dist build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	rm -rf bundles/*/eval bundles/*/data
	@echo "kept: $(VENV) and the weights in bundles/*/models (remove them yourself)"
