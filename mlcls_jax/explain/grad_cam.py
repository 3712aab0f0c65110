"""Where in an image the evidence for a class is: a map per class, and its overlay.

For the dense head on the mean of the feature map this is Grad-CAM (Selvaraju et al. 2017,
arXiv:1610.02391) of the last feature map.  Its gradient is known: that of a class's logit is the
class's kernel column over the number of places, everywhere the same.  So Grad-CAM is CAM (Zhou et
al. 2016, arXiv:1512.04150) with the negative places cut off, and takes no backward pass.

For an ML-Decoder it is the attention of the class's query, the mean over the heads.  This is where
the query looked, also where the class is not there; classes of one group share a map.
"""

from collections.abc import Callable
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int32, UInt8

from mlcls_jax.data.images.transforms import Box
from mlcls_jax.models.conventions import Normalization
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.ml_decoder import ATTENTION, INTERMEDIATES, query_of_class
from mlcls_jax.step.train_step import normalize, over_devices
from mlcls_jax.system.devices import AXIS, replicated

# (variables, images, chosen) -> (logits, maps); see `make_explain_step`.
Explain = Callable[[dict, Any, Any], tuple[jax.Array, jax.Array]]

STRENGTH = 0.6  # of the colour where a map is highest


def make_explain_step(model: EfficientNet, by: Normalization, mesh: Mesh) -> Explain:
    """Builds `explain(variables, images, chosen)`, the evaluation step with maps beside the logits.

    Its arguments are the variables, on every device; images, uint8 [image, size, size, 3]; and
    int32 [image, k], the classes to explain in each, both with their rows over the mesh's axis.
    It returns on every device
        logits: float32 [image, class], as of `make_eval_step`;
        maps: float32 [image, k, rows, columns], none negative.  Of a dense head, what each place
            adds to the logit: without the cut at 0 they would sum up to logit - bias.  Of an
            ML-Decoder, the shares of the attention: they sum up to 1.

    Args:
        model: the network, with its head.
        by: the normalisation of the weights.
        mesh: of the devices.
    """

    def explain(variables, images, chosen):
        features: Any = model.apply(variables, normalize(images, by), method="features")
        maps = _attention if model.decoder else _cam
        return maps(model, variables, features, chosen)

    everywhere = replicated(mesh)
    return over_devices(
        explain,
        (P(), P(AXIS), P(AXIS)),
        (P(AXIS), P(AXIS)),
        mesh,
        out_shardings=(everywhere, everywhere),
    )


def _cam(
    model: EfficientNet,
    variables: dict,
    features: Float[Array, "image rows columns channel"],
    chosen: Int32[Array, "image k"],
) -> tuple[Float[Array, "image class"], Float[Array, "image k rows columns"]]:
    features = features.astype(jnp.float32)
    logits: Any = model.apply(variables, features.mean(axis=(1, 2)), method="classify")
    weights = variables["params"]["head"]["kernel"].T[chosen]
    places = features.shape[1] * features.shape[2]
    return logits, jax.nn.relu(jnp.einsum("phwc,pkc->pkhw", features, weights)) / places


def _attention(
    model: EfficientNet,
    variables: dict,
    features: Float[Array, "image rows columns channel"],
    chosen: Int32[Array, "image k"],
) -> tuple[Float[Array, "image class"], Float[Array, "image k rows columns"]]:
    result: Any = model.apply(variables, features, method="classify", mutable=[INTERMEDIATES])
    logits, left = result
    (weights,) = left[INTERMEDIATES]["head"][ATTENTION]
    groups = model.decoder.groups if model.decoder else 0
    queries = jnp.asarray(query_of_class(model.num_classes, groups))[chosen]
    shares = jnp.take_along_axis(weights.mean(axis=1), queries[..., None], axis=1)
    return logits, shares.reshape(*chosen.shape, *features.shape[1:3])


def overlay(
    image: UInt8[np.ndarray, "height width 3"],
    heat: Float[np.ndarray, "rows columns"],
    box: Box,
) -> UInt8[np.ndarray, "height width 3"]:
    """The image with a map over the part that the network saw: yellow where it is highest.

    The scale is the map's own, from 0 to its highest place, so that colours of two maps do not
    compare; a map of zeros leaves the image as it is.

    Args:
        image: upright.
        heat: none negative.
        box: of the image, in its pixels.
    """
    largest = float(heat.max())
    scaled = (heat / largest if largest > 0 else heat).astype(np.float32)
    grown = cv2.resize(scaled, (box.width, box.height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    colours = cv2.applyColorMap(np.rint(grown * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    weight = STRENGTH * grown[..., None]
    result = image.copy()
    part = result[box.top : box.top + box.height, box.left : box.left + box.width]
    part[:] = np.rint(part * (1 - weight) + colours[..., ::-1] * weight)
    return result
