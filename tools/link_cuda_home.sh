#!/bin/bash
# Link the CUDA toolkit that the nvidia-* packages of an environment hold, as CUDA_HOME expects it.
#
#     tools/link_cuda_home.sh [PYTHON] [TARGET]
#
# SGLang and FlashInfer compile kernels when a server first needs them, with the nvcc, headers and
# libraries below CUDA_HOME. PYTHON (default .venv-serve/bin/python) has constraints/gpu-serve.txt, or
# cuda-build.txt.
# TARGET (default .venv-serve/cuda) is written anew; then: export CUDA_HOME=$PWD/.venv-serve/cuda
set -euo pipefail

python=${1:-.venv-serve/bin/python}
target=${2:-.venv-serve/cuda}
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia/cu13

if [[ ! -x $packages/bin/nvcc ]]; then
    echo "$packages has no nvcc: $python lacks the packages of constraints/gpu-serve.txt" >&2
    exit 2
fi
rm -rf "$target"
mkdir -p "$target/lib64/stubs"
ln -s "$packages"/{bin,include,nvvm} "$target"
for library in "$packages"/lib/lib*; do
    name=$(basename "$library")
    ln -s "$library" "$target/lib64/$name"
    # Packages have libcudart.so.13, and a linker looks for libcudart.so.
    [[ $name != *.so.* ]] || ln -s "$library" "$target/lib64/${name%%.so.*}.so"
done
# The driver brings libcuda.so.1; what links against it needs its name and those of its functions.
grep -oE '\bcu[A-Z][A-Za-z0-9_]*' "$packages/include/cuda.h" | sort -u |
    sed 's/.*/void &(void) {}/' |
    "${CC:-cc}" -shared -Wl,-soname,libcuda.so.1 -o "$target/lib64/stubs/libcuda.so" -x c -
