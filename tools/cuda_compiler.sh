# Compiler of CUDA 13 for extensions of torch, from packages; sourced by the scripts that build one.
#
#     source tools/cuda_compiler.sh PYTHON
#
# PYTHON has the CUDA build of torch, and gets the compiler and headers of the nvidia-* packages
# (constraints/cuda-build.txt): neither a system CUDA nor a GPU is needed. MAX_JOBS (default 1) says
# how many files are compiled at once.
# shellcheck shell=bash
python=$1

site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
major=$("$python" -c 'import torch; print((torch.version.cuda or "0").partition(".")[0])')
if [[ $major != 13 ]]; then
    echo "torch in $python is built for CUDA $major; this script has compilers for CUDA 13 only" >&2
    exit 2
fi
tools=$(dirname "${BASH_SOURCE[0]}")
"$python" -m pip install --quiet -r "$tools/../constraints/cuda-build.txt"

# ninja, where pip put it.
bin=$(cd "$(dirname "$python")" && pwd)
PATH=$bin:$PATH
# Libraries under the names that a linker looks for.
"$tools/link_cuda_home.sh" "$python" "$bin/../cuda"
LIBRARY_PATH=$bin/../cuda/lib64
CUDA_HOME=$site/nvidia/cu13
CUDNN_PATH=$site/nvidia/cudnn
CPATH=$CUDA_HOME/include:$CUDA_HOME/include/cccl:$CUDNN_PATH/include:$site/nvidia/nccl/include
MAX_JOBS=${MAX_JOBS:-1}
export PATH LIBRARY_PATH CUDA_HOME CUDNN_PATH CPATH MAX_JOBS
