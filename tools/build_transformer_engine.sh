#!/bin/bash
# Build Transformer Engine's torch extension as a wheel; no system CUDA and no GPU is needed.
#
#     tools/build_transformer_engine.sh [PYTHON] [WHEELS]
#
# PYTHON (default .venv/bin/python) has the CUDA build of torch, and gets the compiler and headers of
# the nvidia-* packages. The wheel goes to WHEELS (default wheels/), where `make env` finds it: a
# login node compiles once, and compute nodes need no index. MAX_JOBS (default 1, 2.6 GB of memory
# each) says how many files are compiled at once; one takes about 25 minutes for all.
set -euo pipefail

python=${1:-.venv/bin/python}
wheels=${2:-wheels}
here=$(cd "$(dirname "$0")/.." && pwd)

site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
major=$("$python" -c 'import torch; print((torch.version.cuda or "0").partition(".")[0])')
if [[ $major != 13 ]]; then
    echo "torch in $python is built for CUDA $major; this script has compilers for CUDA 13 only" >&2
    exit 2
fi
"$python" -m pip install --quiet -r "$here/constraints/cuda-build.txt"

# ninja, where pip put it.
PATH=$(cd "$(dirname "$python")" && pwd):$PATH
export PATH
export CUDA_HOME=$site/nvidia/cu13 CUDNN_PATH=$site/nvidia/cudnn
export CPATH=$CUDA_HOME/include:$CUDA_HOME/include/cccl:$CUDNN_PATH/include:$site/nvidia/nccl/include
# Without the second, the build first asks GitHub for a finished wheel.
export NVTE_FRAMEWORK=pytorch NVTE_PYTORCH_FORCE_BUILD=TRUE MAX_JOBS=${MAX_JOBS:-1}
version=$(sed -n 's/^transformer_engine_torch==//p' "$here/constraints/gpu-learn.txt")
mkdir -p "$wheels"
"$python" -m pip wheel --no-deps --no-build-isolation --wheel-dir "$wheels" \
    "transformer_engine_torch==$version"
