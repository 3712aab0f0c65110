"""Features of images: the outputs of a trained backbone, which the head takes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mlcls_jax.data.loaders.loader import Reader
from mlcls_jax.evaluation.inference import pooled
from mlcls_jax.run.trained_model import TrainedModel, prediction_step


def embedding_step(run: TrainedModel) -> Any:
    """Returns the compiled function (variables, uint8 images) -> inputs of the head.

    Raises:
        ValueError: the network is not an EfficientNet.
    """
    if run.network.custom:
        raise ValueError(f"embed needs an EfficientNet; the run has {run.network.custom}")
    headless = dataclasses.replace(run.network, num_classes=0)
    return prediction_step(headless, run.pretrained_config, run.mesh)


def embed_dataset(
    run: TrainedModel, paths: Sequence[str], reader: Reader, title: str = ""
) -> tuple[Float[np.ndarray, "image channel"], np.ndarray]:
    """Returns the features of images, and which images could be read.

    Args:
        run: the trained model.
        paths: files of the images.
        reader: reads the images.
        title: title of the progress bar; "" for none.

    Raises:
        ValueError: the network is not an EfficientNet, or an image cannot be read and must not be
            skipped.
    """
    features, readable = run.outputs(paths, reader, title, embedding_step(run))
    return pooled(features), readable
