#!/bin/bash
# Build Transformer Engine's torch extension as a wheel; no system CUDA and no GPU is needed.
#
#     tools/build_transformer_engine.sh [PYTHON] [WHEELS]
#
# PYTHON (default .venv/bin/python) has the CUDA build of torch, see tools/cuda_compiler.sh. The wheel
# goes to WHEELS (default wheels/), where `make env` finds it: a login node compiles once. MAX_JOBS=1
# takes about 25 minutes; each job takes 2.6 GB of memory.
set -euo pipefail

python=${1:-.venv/bin/python}
wheels=${2:-wheels}
here=$(cd "$(dirname "$0")/.." && pwd)

# shellcheck source=tools/cuda_compiler.sh
source "$here/tools/cuda_compiler.sh" "$python"
# Without the second, the build first asks GitHub for a finished wheel.
export NVTE_FRAMEWORK=pytorch NVTE_PYTORCH_FORCE_BUILD=TRUE
version=$(sed -n 's/^transformer_engine_torch==//p' "$here/constraints/gpu-learn.txt")
mkdir -p "$wheels"
"$python" -m pip wheel --no-deps --no-build-isolation --wheel-dir "$wheels" \
    "transformer_engine_torch==$version"
