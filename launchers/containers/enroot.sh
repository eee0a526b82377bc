#!/bin/bash
# Build an image for Pyxis with Enroot, without root and without a registry of your own.
#
#     launchers/containers/enroot.sh learn|serve TARGET.sqsh
#
# In the repository's root, on a machine with Enroot. TARGET is a squashed file that srun takes as
# --container-image, through launch.container.learner_image or generator_image (docs/slurm.md). The
# folder wheels, of `make wheels GPU=1`, is used as it is and not part of the image.
set -euo pipefail

part=${1:?learn or serve}
target=${2:?name of the file to write}
name=megatron-rl-$part-$$
base=$(mktemp -d)
trap 'rm -rf "$base"; enroot remove --force "$name" >/dev/null 2>&1 || true' EXIT

enroot import --output "$base/debian.sqsh" docker://debian:12-slim
enroot create --name "$name" "$base/debian.sqsh"
enroot start --root --rw --mount "$PWD:/source" "$name" \
    /source/launchers/containers/install.sh "$part"
enroot export --output "$target" "$name"
