"""Test-time augmentation: one prediction from several views of an image.

"h", "hv" and "d4" use the 2, 4 or 8 images of augment.symmetry of that name. "crops" uses the four
corners and the centre of the image, resized to a side that is 32 pixels larger, and their mirror
images: the ten crops of Krizhevsky et al. 2012, section 4.1. A run trained with
augment.symmetry=none uses no mirror images.

An image is decoded and transferred once. The views are cropped and turned on the device one after
the other, so they take no more memory than one. Their probabilities are averaged, as in that paper
and in Simonyan and Zisserman 2015 (arXiv:1409.1556). The log loss is convex, so the loss of the
mean is never above the mean loss of the views.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from mlcls_jax.config.schema import SYMMETRIES, image_size
from mlcls_jax.data.images.symmetry import turned
from mlcls_jax.models.conventions import Normalization
from mlcls_jax.run.trained_model import TrainedModel
from mlcls_jax.step.network import build_model
from mlcls_jax.step.train_step import AnyNetwork, normalize, over_devices
from mlcls_jax.system.devices import AXIS, replicated

CROPS = "crops"
MARGIN = 32  # pixels; as much as the centre crop of evaluation removes


def with_views(run: TrainedModel, name: str) -> TrainedModel:
    """Returns the trained model with predictions averaged over views.

    Args:
        run: the trained model.
        name: "none", "h", "hv", "d4" or "crops".

    Returns:
        The model; its config has the image size that the views need.

    Raises:
        ValueError: the name is another one, or stands for images that the run was not trained on.
    """
    symmetry, size = run.config.augment.symmetry, image_size(run.config.model)
    if name == "none":
        return run
    if name not in (*SYMMETRIES, CROPS):
        raise ValueError(f"tta is {name!r}; it must be one of {', '.join((*SYMMETRIES, CROPS))}")
    if SYMMETRIES.get(name, 0) > SYMMETRIES[symmetry]:
        other = "crops, which then uses no mirror images," if symmetry == "none" else symmetry
        raise ValueError(
            f"--tta {name}: the run has augment.symmetry={symmetry}, so it was not trained on such "
            f"images; use --tta {other} or --tta none"
        )
    larger = dataclasses.replace(run.config.model, image_size=size + margin(name))
    model = build_model(run.network, run.pretrained_config.convention)
    predict = make_view_step(
        model, run.pretrained_config.normalization, views(name, symmetry), size, run.mesh
    )
    config = dataclasses.replace(run.config, model=larger)
    return dataclasses.replace(run, config=config, predict=predict)


def margin(name: str) -> int:
    """Returns by how many pixels the side of the images exceeds the network's image size."""
    return MARGIN if name == CROPS else 0


def views(name: str, symmetry: str) -> np.ndarray:
    """Returns the views of an image.

    Args:
        name: "none", "h", "hv", "d4" or "crops".
        symmetry: augment.symmetry of the run, which decides whether crops are mirrored.

    Returns:
        Int32 [view, 3]: top and left in pixels, and the symmetry, a number from 0 to 7.

    >>> views("h", symmetry="h").tolist()
    [[0, 0, 0], [0, 0, 1]]
    """
    end = margin(name)
    crops = [(0, 0), (0, end), (end, 0), (end, end), (end // 2, end // 2)]
    offsets = crops if name == CROPS else [(0, 0)]
    turns = range(SYMMETRIES.get(name, 1 if symmetry == "none" else 2))
    return np.array([(*offset, turn) for offset in offsets for turn in turns], np.int32)


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
        A compiled function of the variables and uint8 images [batch, side, side, channel], which
        contain all views; it returns float32 logits [batch, class].
    """

    turns = [partial(turned, turn=turn) for turn in range(int(wanted[:, 2].max()) + 1)]

    def logits(variables, images):
        def one(view):
            top, left, turn = view
            start = jnp.zeros_like(top), top, left, jnp.zeros_like(top)
            sides = images.shape[0], size, size, images.shape[3]
            part = jax.lax.dynamic_slice(images, start, sides)
            part = jax.lax.switch(turn, turns, part)
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
