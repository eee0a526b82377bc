#!/bin/bash
# What tests of real programs need beside the two environments, on Debian and Ubuntu, as root: a
# throw-away Slurm, bubblewrap, ip, shellcheck, Chromium. Without root, or without a package, tests
# skip by name.
set -uo pipefail

declare -A package_of=(
    [slurmctld]=slurmctld [slurmd]=slurmd [sbatch]=slurm-client [munged]=munge
    [bwrap]=bubblewrap [ip]=iproute2 [shellcheck]=shellcheck [g++]=g++
    [chromium]=chromium
)
PATH=$PATH:/usr/sbin:/sbin
missing=()
for program in "${!package_of[@]}"; do
    command -v "$program" >/dev/null || missing+=("${package_of[$program]}")
done
((${#missing[@]})) || exit 0
if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    echo "not installed, tests of them will be skipped: ${missing[*]}"
    exit 0
fi
# Slurm's nodes cannot start without their plugins.
if [[ " ${missing[*]} " == *" slurmd "* ]]; then missing+=(slurm-wlm-basic-plugins); fi
export DEBIAN_FRONTEND=noninteractive
{
    apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"
} >/tmp/megatron-rl-packages.log 2>&1 ||
    echo "could not install ${missing[*]}, tests of them will be skipped: see /tmp/megatron-rl-packages.log"
