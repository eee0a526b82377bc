# Everything a person does here. `make help` lists it.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Where pip finds the CPU build of torch, when the default index has only the CUDA build.
TORCH_INDEX ?=
# megatron-core imports triton; the CPU build of torch does not bring it.
TRITON_VERSION := 3.9.0

# GPU=1 builds the GPU's environments on a machine without one, such as a login node.
GPU ?=
HAS_GPU := $(if $(GPU),yes,$(shell nvidia-smi -L >/dev/null 2>&1 && echo yes))
LEARN_CONSTRAINTS := constraints/$(if $(HAS_GPU),gpu-learn,learn-cpu).txt
SERVE_CONSTRAINTS := constraints/$(if $(HAS_GPU),gpu-serve,serve-cpu).txt
# Extensions of torch that are compiled once: Transformer Engine's, whose source package needs CUDA's
# headers; and NVIDIA apex of the source folder APEX, for whoever wants it.
ENGINE_WHEEL := wheels/transformer_engine_torch-*.whl
APEX ?=
APEX_WHEEL := wheels/apex-*.whl
# Wheels of both environments, by `make wheels`; those for CPUs apart, since torch's has the same name.
WHEELS ?= $(if $(HAS_GPU),wheels,wheels/cpu)
# OFFLINE=1 installs from them alone, on a machine without a package index.
OFFLINE ?=
ifneq ($(OFFLINE),)
ifeq ($(wildcard $(WHEELS)/*.whl),)
$(error OFFLINE=1 installs from the folder $(WHEELS), which has no wheels: run `make wheels` where there \
is a package index, and copy the folder)
endif
endif
# The demo computes in float32, of which SGLang has no RMSNorm on a GPU.
DEMO_SETTINGS := $(if $(HAS_GPU),--set model.dtype=bfloat16)
PIP_SOURCES = --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
	$(if $(OFFLINE),--no-index --find-links $(WHEELS))
PIP_INSTALL = pip install $(PIP_SOURCES)
PIP_WHEEL = pip wheel $(PIP_SOURCES) --wheel-dir $(WHEELS)

comma := ,

# A test that hangs in C code takes its worker with it, and is named.
UNIT_TESTS := OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --timeout 60 --timeout-method thread tests/unit
# Files stay together, for their tests share servers and runs; the longest are started first.
LARGE_TESTS := OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder \
	-m "not slow"
# Without whole runs beside them, which would slow down what they measure; and in processes in which
# no test has hidden the GPUs, as those of conversion do.
SHORT_TESTS := tests/system/test_weight_sync.py tests/system/sandbox tests/gpu
# How long each test of `make test` took.
TIMES := build/test-times

.PHONY: help demo campaign gpu-check test test-all test-cuda-build unit lint bench env wheels launch-env clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: env runs/demo-data/.complete ## train a tiny model, end to end, on this machine
	.venv/bin/megatron-rl train examples/demo/run.toml $(DEMO_SETTINGS)

campaign: env runs/magistral_tiny-data/.complete ## a teacher in three stages, its traces, a student
	.venv/bin/megatron-rl train examples/magistral_tiny/medium.toml $(DEMO_SETTINGS)
	test -e runs/magistral_tiny/traces.jsonl || .venv/bin/megatron-rl traces runs/magistral_tiny/medium \
		--out runs/magistral_tiny/traces.jsonl --from-step 5 --per-problem 4
	.venv/bin/megatron-rl sft examples/magistral_tiny/small_base.toml $(DEMO_SETTINGS)
	.venv/bin/megatron-rl train examples/magistral_tiny/small.toml $(DEMO_SETTINGS)
	.venv/bin/megatron-rl train examples/magistral_tiny/small_rl.toml $(DEMO_SETTINGS)

gpu-check: env ## try everything on this machine's GPUs, in minutes
	.venv/bin/megatron-rl gpu-check

test: env lint ## lint, types and the tests, but for the slow ones
	tests/system/install_packages.sh
	rm -rf $(TIMES)
	$(UNIT_TESTS) -m "not slow" --dist worksteal --junitxml $(TIMES)/unit.xml
	$(LARGE_TESTS) --junitxml $(TIMES)/short.xml $(SHORT_TESTS)
	$(LARGE_TESTS) --junitxml $(TIMES)/large.xml tests/distributed tests/system \
		$(addprefix --ignore ,$(SHORT_TESTS))
	.venv/bin/python tests/slowest.py $(TIMES)

test-all: test launch-env ## the slow tests as well: more of Slurm, nemo-run
	.venv/bin/pytest -m slow tests

test-cuda-build: .venv/.stamp ## the learner's CUDA build without a GPU, with GPU=1; ten minutes
	.venv/bin/python -m tests.cuda_build.run

unit: env ## only the fast tests
	$(UNIT_TESTS) -m "not lengthy and not system and not slow"

lint: env ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: env ## measure this machine
	OMP_NUM_THREADS=1 .venv/bin/python benchmarks/run_all.py

env: .venv/.stamp $(if $(APEX),.venv/.apex) .venv-serve/.stamp ## create or refresh both Python environments

wheels: env ## both environments as wheels, for `make env OFFLINE=1` where there is no package index
	.venv/bin/$(PIP_WHEEL) -c $(LEARN_CONSTRAINTS) --find-links wheels 'setuptools>=77' wheel \
		'.[learn,dev$(if $(HAS_GPU),$(comma)gpu)]'
ifeq ($(HAS_GPU),yes)
	.venv/bin/$(PIP_WHEEL) -r constraints/cuda-build.txt
	.venv-serve/bin/$(PIP_WHEEL) --no-deps -r $(SERVE_CONSTRAINTS)
else
	.venv/bin/$(PIP_WHEEL) --no-deps triton==$(TRITON_VERSION)
	.venv-serve/bin/$(PIP_WHEEL) -c $(SERVE_CONSTRAINTS) -r constraints/serve.in
	.venv-serve/bin/$(PIP_WHEEL) -c $(SERVE_CONSTRAINTS) --no-deps sglang xgrammar
endif

launch-env: .venv-launch/.stamp ## create or refresh the environment that submits through nemo-run

clean: ## remove the environments and every cache; runs/ stays
	rm -rf .venv .venv-serve .venv-launch build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A file that is written last, so that a run cut short starts over.
runs/demo-data/.complete: $(wildcard examples/demo/*.py) | env
	.venv/bin/python examples/demo/make_data.py runs/demo-data
	touch $@

runs/magistral_tiny-data/.complete: $(wildcard examples/magistral_tiny/*.py examples/demo/demo_model.py) | env
	.venv/bin/python examples/magistral_tiny/make_data.py runs/magistral_tiny-data
	touch $@

.venv/.stamp: setup.py pyproject.toml $(LEARN_CONSTRAINTS)
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/$(PIP_INSTALL) -c $(LEARN_CONSTRAINTS) -e '.[learn,dev]'
ifeq ($(HAS_GPU),yes)
	ls $(ENGINE_WHEEL) >/dev/null 2>&1 || tools/build_transformer_engine.sh .venv/bin/python wheels
	.venv/bin/$(PIP_INSTALL) -c $(LEARN_CONSTRAINTS) --find-links wheels -e '.[gpu]'
else
	.venv/bin/python -c 'import triton' 2>/dev/null || \
		.venv/bin/$(PIP_INSTALL) --no-deps triton==$(TRITON_VERSION)
endif
	touch $@

.venv/.apex: .venv/.stamp
	ls $(APEX_WHEEL) >/dev/null 2>&1 || tools/build_apex.sh $(APEX) .venv/bin/python wheels
	.venv/bin/pip install --quiet --no-deps --force-reinstall $(APEX_WHEEL)
	touch $@

.venv-serve/.stamp: constraints/serve.in $(SERVE_CONSTRAINTS)
	test -x .venv-serve/bin/python || $(PYTHON) -m venv .venv-serve
ifeq ($(HAS_GPU),yes)
	.venv-serve/bin/$(PIP_INSTALL) --no-deps -r $(SERVE_CONSTRAINTS)
	tools/link_cuda_home.sh .venv-serve/bin/python .venv-serve/cuda
else
	.venv-serve/bin/$(PIP_INSTALL) -c $(SERVE_CONSTRAINTS) -r constraints/serve.in
	.venv-serve/bin/$(PIP_INSTALL) -c $(SERVE_CONSTRAINTS) --no-deps sglang xgrammar
endif
	touch $@

# What starts servers in an image of its own: this package, without torch.
.venv/.launcher: setup.py pyproject.toml $(LEARN_CONSTRAINTS)
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/$(PIP_INSTALL) -c $(LEARN_CONSTRAINTS) -e .
	touch $@

# nemo-run needs versions that the learner's environment does not have.
.venv-launch/.stamp: setup.py constraints/launch.txt
	test -x .venv-launch/bin/python || $(PYTHON) -m venv .venv-launch
	.venv-launch/bin/$(PIP_INSTALL) -c constraints/launch.txt -e '.[launch]'
	touch $@
