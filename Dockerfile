# syntax=docker/dockerfile:1
# mlcls-jax for NVIDIA GPUs; docs/distributed.md shows how to run it.
#
#   docker build --tag mlcls-jax .
#   docker run --rm --gpus all --volume "$PWD:/work" --user "$(id -u):$(id -g)" mlcls-jax \
#       train --config b5 --workdir runs/b5 --config.data.csv=labels.csv --config.data.images=photos
#
# CUDA 13 comes from JAX's own wheels, so the host needs no CUDA: only NVIDIA's driver, 580 or newer,
# and the NVIDIA Container Toolkit.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG EXTRAS=lite,serve,bucket
# The version that the tests ran with.
ARG JAX=0.10.2
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(echo /wheels/mlcls_jax-*.whl)[${EXTRAS}]" "jax[cuda13,k8s]==${JAX}"

# Any user may write to /cache, which keeps downloaded weights and compiled programs. Mount a volume
# there to keep them.
RUN useradd --uid 1000 --user-group --no-create-home mlcls \
    && install --directory --mode=1777 /cache /work
ENV HOME=/cache \
    MLCLS_JAX_CACHE=/cache \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_VISIBLE_DEVICES=all \
    PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["mlcls-jax"]
CMD ["--help"]
