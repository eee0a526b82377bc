#!/bin/bash
# Install this package within an image of Debian 12, as root: its half of a run, from the pinned versions.
#
#     launchers/containers/install.sh learn|serve
#
# learn has the learner, rollout, judge and doctor; serve has SGLang and what starts it. Both go to
# /opt/megatron-rl. Run by the definition files of Apptainer and by enroot.sh; a machine that builds
# images needs no GPU. With the folder wheels of `make wheels GPU=1` no package index is asked, and
# Transformer Engine is not compiled.
set -euo pipefail

part=${1:?learn or serve}
source=$(cd "$(dirname "$0")/../.." && pwd)
home=/opt/megatron-rl

# A C++ compiler and Python's headers are for kernels that torch and SGLang compile when first needed;
# the libraries for NCCL on InfiniBand; bubblewrap isolates solutions of code problems.
packages=(ca-certificates g++ ibverbs-providers libibverbs1 libnuma1 librdmacm1 make python3 python3-dev
    python3-venv)
case $part in
    learn) packages+=(bubblewrap) ;;
    serve) packages+=(ninja-build) ;;
    *) echo "$part is neither learn nor serve" >&2 && exit 2 ;;
esac
export DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1
apt-get update
apt-get install -y --no-install-recommends "${packages[@]}"
rm -rf /var/lib/apt/lists/*

mkdir -p "$home"
if [[ $source != "$home" ]]; then
    cp -r "$source"/{MANIFEST.in,Makefile,constraints,launchers,megatron_rl,pyproject.toml,setup.py,tools} \
        "$home"
    ln -sfn "$source/wheels" "$home/wheels"
fi
cd "$home"
options=(GPU=1 PYTHON=python3)
if compgen -G "wheels/torch-*.whl" >/dev/null; then options+=(OFFLINE=1); fi

if [[ $part == learn ]]; then
    make .venv/.stamp "${options[@]}"
else
    make .venv/.launcher "${options[@]}"
    make .venv-serve/.stamp "${options[@]}"
    echo "CUDA_HOME=$home/.venv-serve/cuda" >>/etc/environment
fi
# Enroot gives a container its GPUs when its environment asks for them.
printf 'NVIDIA_VISIBLE_DEVICES=all\nNVIDIA_DRIVER_CAPABILITIES=compute,utility\n' >>/etc/environment
rm -rf wheels
