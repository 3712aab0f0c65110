"""Test-time augmentation: one prediction from several views of an image.

"flip" is the image and its mirror image.  "crops" are the four corners and the centre of the
image at a side of 32 pixels more, and their mirror images: the ten of Krizhevsky et al. 2012,
section 4.1.  A run that was trained with augment.flip=False has no mirror images.

An image is decoded and sent once; the views are cut and mirrored on the device, one after the
other, so that they take no more memory than one.  Their probabilities are averaged, as in that
paper and in Simonyan and Zisserman 2015 (arXiv:1409.1556): the logarithmic loss is convex, so the
mean's is never above the mean loss of the views.
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
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.run.trained_model import TrainedModel
from mlcls_jax.step.programs import build_model
from mlcls_jax.step.train_step import normalize, over_devices
from mlcls_jax.system.devices import AXIS, replicated

NAMES = ("none", "flip", "crops")
MARGIN = 32  # pixels; as much as the centre crop of evaluation leaves out


def with_views(run: TrainedModel, name: str) -> TrainedModel:
    """The run with the mean prediction over views in place of one, from images as large as that
    needs: its config has their size.

    Raises:
        ValueError: mirror images, in a run that was trained to tell them apart.
    """
    flip, size = run.config.augment.flip, image_size(run.config)
    if name == "none":
        return run
    if name == "flip" and not flip:
        raise ValueError(
            "--tta flip: the run has augment.flip=False, so it never saw a mirrored image; "
            "use --tta crops, which leaves these out, or none"
        )
    larger = dataclasses.replace(run.config.model, image_size=size + margin(name))
    model = build_model(run.config, len(run.classes), run.pretrained_config.convention)
    predict = make_view_step(
        model, run.pretrained_config.normalization, views(name, flip), size, run.mesh
    )
    config = dataclasses.replace(run.config, model=larger)
    return dataclasses.replace(run, config=config, predict=predict)


def margin(name: str) -> int:
    """Pixels by which the images are larger than the network's."""
    return MARGIN if name == "crops" else 0


def views(name: str, flip: bool) -> np.ndarray:
    """int32 [view, 3]: (top, left) of each view in pixels, and 1 where it is mirrored."""
    most = margin(name)
    corners = [(0, 0), (0, most), (most, 0), (most, most), (most // 2, most // 2)]
    places = corners if name == "crops" else [(0, 0)]
    mirrored = (0, 1) if flip and name != "none" else (0,)
    return np.array([(*place, side) for place in places for side in mirrored], np.int32)


def make_view_step(
    model: EfficientNet, by: Normalization, wanted: np.ndarray, size: int, mesh: Mesh
) -> Callable[[dict, jax.Array], jax.Array]:
    """Builds `logits(variables, images)`, as make_eval_step, of the mean over views.

    Args:
        model: the network, with its head.
        by: the normalisation of the weights.
        wanted: from `views`; the images, uint8 [batch, side, side, 3], hold all of them.
        size: side of a view in pixels.
        mesh: whose axis the images are sharded over.
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
    """The logit of the mean of the views' sigmoids, also where these are 0 or 1 in float32."""
    present = jax.nn.logsumexp(jax.nn.log_sigmoid(logits), axis=0)
    absent = jax.nn.logsumexp(jax.nn.log_sigmoid(-logits), axis=0)
    return present - absent
