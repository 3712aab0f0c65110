"""Test-time augmentation: one prediction from several views of an image.

"flip" uses the image and its mirror image. "crops" uses the four corners and the centre of the
image, resized to a side that is 32 pixels larger, and their mirror images: the ten crops of
Krizhevsky et al. 2012, section 4.1. A run trained with augment.flip=False uses no mirror images.

An image is decoded and transferred once. The views are cropped and mirrored on the device one after
the other, so they take no more memory than one. Their probabilities are averaged, as in that paper
and in Simonyan and Zisserman 2015 (arXiv:1409.1556). The log loss is convex, so the loss of the
mean is never above the mean loss of the views.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from mlcls_jax.config.schema import image_size
from mlcls_jax.models.conventions import Normalization
from mlcls_jax.run.trained_model import TrainedModel
from mlcls_jax.step.network import build_model
from mlcls_jax.step.train_step import AnyNetwork, normalize, over_devices
from mlcls_jax.system.devices import AXIS, replicated

MARGIN = 32  # pixels; as much as the centre crop of evaluation removes


def with_views(run: TrainedModel, name: str) -> TrainedModel:
    """Returns the trained model with predictions averaged over views.

    Args:
        run: the trained model.
        name: "none", "flip" or "crops".

    Returns:
        The model; its config has the image size that the views need.

    Raises:
        ValueError: "flip" for a run that was trained with augment.flip=False.
    """
    flip, size = run.config.augment.flip, image_size(run.config.model)
    if name == "none":
        return run
    if name == "flip" and not flip:
        raise ValueError(
            "--tta flip: the run has augment.flip=False, so it was not trained on mirror images; "
            "use --tta crops, which then uses none, or --tta none"
        )
    larger = dataclasses.replace(run.config.model, image_size=size + margin(name))
    model = build_model(run.network, run.pretrained_config.convention)
    predict = make_view_step(
        model, run.pretrained_config.normalization, views(name, flip), size, run.mesh
    )
    config = dataclasses.replace(run.config, model=larger)
    return dataclasses.replace(run, config=config, predict=predict)


def margin(name: str) -> int:
    """Returns by how many pixels the side of the images exceeds the network's image size."""
    return MARGIN if name == "crops" else 0


def views(name: str, flip: bool) -> np.ndarray:
    """Returns the views of an image.

    Args:
        name: "none", "flip" or "crops".
        flip: whether mirror images are used.

    Returns:
        Int32 [view, 3]: top and left in pixels, and 1 if the view is mirrored.

    >>> views("flip", flip=True).tolist()
    [[0, 0, 0], [0, 0, 1]]
    """
    end = margin(name)
    crops = [(0, 0), (0, end), (end, 0), (end, end), (end // 2, end // 2)]
    offsets = crops if name == "crops" else [(0, 0)]
    mirrored = (0, 1) if flip and name != "none" else (0,)
    return np.array([(*offset, mirror) for offset in offsets for mirror in mirrored], np.int32)


def make_view_step(
    model: AnyNetwork, by: Normalization, wanted: np.ndarray, size: int, mesh: Mesh
) -> Callable[[dict, jax.Array], jax.Array]:
    """Builds `logits(variables, images)`, like make_eval_step, with the mean over views.

    Args:
        model: the network, with its head.
        by: the normalisation of the weights.
        wanted: the views, from `views`.
        size: side of a view in pixels.
        mesh: the images are sharded over its axis.

    Returns:
        A compiled function of the variables and uint8 images [batch, side, side, 3], which contain
        all views; it returns float32 logits [batch, class].
    """

    def logits(variables, images):
        def one(view):
            top, left, mirrored = view
            start = jnp.zeros_like(top), top, left, jnp.zeros_like(top)
            part = jax.lax.dynamic_slice(images, start, (images.shape[0], size, size, 3))
            part = jnp.where(mirrored == 1, part[:, :, ::-1], part)
            return model.apply(variables, normalize(part, by), train=False)

        return of_mean_probability(jax.lax.map(one, wanted))

    return over_devices(logits, (P(), P(AXIS)), P(AXIS), mesh, out_shardings=replicated(mesh))


def of_mean_probability(
    logits: Float[Array, "view batch class"],
) -> Float[Array, "batch class"]:
    """Returns the logit of the mean sigmoid over views, exact even if sigmoids round to 0 or 1."""
    present = jax.nn.logsumexp(jax.nn.log_sigmoid(logits), axis=0)
    absent = jax.nn.logsumexp(jax.nn.log_sigmoid(-logits), axis=0)
    return present - absent
