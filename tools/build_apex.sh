#!/bin/bash
# Build NVIDIA apex, with its C++ and CUDA extensions, as a wheel; no GPU is needed.
#
#     tools/build_apex.sh SOURCE [PYTHON] [WHEELS]
#
# SOURCE is a clone of github.com/NVIDIA/apex, which stays as it is. PYTHON (default
# .venv/bin/python) has the CUDA build of torch, see tools/cuda_compiler.sh. The wheel goes to WHEELS
# (default wheels/). TORCH_CUDA_ARCH_LIST (default "8.0;9.0;10.0+PTX") says for which GPUs; fewer are
# quicker.
set -euo pipefail

apex=${1:?name the folder of NVIDIA apex}
python=${2:-.venv/bin/python}
wheels=${3:-wheels}
here=$(cd "$(dirname "$0")/.." && pwd)

# The package index's project of that name has none of these.
for part in apex/multi_tensor_apply apex/normalization apex/optimizers csrc; do
    if [[ ! -d $apex/$part ]]; then
        echo "$apex is not the source of NVIDIA apex, it has no folder $part:" \
            "clone github.com/NVIDIA/apex and name that folder" >&2
        exit 2
    fi
done

# shellcheck source=tools/cuda_compiler.sh
source "$here/tools/cuda_compiler.sh" "$python"
export APEX_CPP_EXT=1 APEX_CUDA_EXT=1 TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-8.0;9.0;10.0+PTX}
# setuptools would build in the source.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r "$apex/." "$copy"
mkdir -p "$wheels"
"$python" -m pip wheel --no-deps --no-build-isolation --wheel-dir "$wheels" "$copy"
