"""Evidence maps: which parts of an image support a class, and their overlay on the image.

For the dense head on the averaged feature map, the map is Grad-CAM (Selvaraju et al. 2017,
arXiv:1610.02391) of the last feature map.  The gradient of a class's logit is known: it is the
class's kernel column over the number of positions, the same at every position.  Grad-CAM is
therefore CAM (Zhou et al. 2016, arXiv:1512.04150) with negative values set to 0, without a backward
pass.

For an ML-Decoder, the map is the attention of the class's query, averaged over the heads.  It shows
where the query attended, even if the class is absent.  Classes of one group share a map.
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

from mlcls_jax.data.images.channels import as_rgb
from mlcls_jax.data.images.transforms import Box
from mlcls_jax.models.conventions import Normalization
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.ml_decoder import ATTENTION, INTERMEDIATES, query_of_class
from mlcls_jax.step.train_step import AnyNetwork, normalize, over_devices
from mlcls_jax.system.devices import AXIS, replicated

# (variables, images, chosen) -> (logits, maps); see `make_explain_step`.
Explain = Callable[[dict, Any, Any], tuple[jax.Array, jax.Array]]

MAX_OPACITY = 0.6  # of the colour, where a map is highest


def make_explain_step(model: AnyNetwork, by: Normalization, mesh: Mesh) -> Explain:
    """Builds the compiled step `explain(variables, images, chosen) -> (logits, maps)`.

    Arguments of the step:
        variables: parameters and statistics, on every device.
        images: uint8 [image, size, size, channel], with rows split over the mesh's axis.
        chosen: int32 [image, k], indices of the classes to explain, split in the same way.

    Results of the step, on every device:
        logits: float32 [image, class], the same as of `make_eval_step`.
        maps: float32 [image, k, rows, columns], non-negative.  For a dense head, a value is what
            its position adds to the logit; without the cut at 0, the values of a map would sum to
            logit - bias.  For an ML-Decoder, the values are attention weights that sum to 1.

    Args:
        model: the network, with its head.
        by: normalisation that the weights expect.
        mesh: the devices.

    Raises:
        ValueError: the network is not an EfficientNet.
    """

    if not isinstance(model, EfficientNet):
        raise ValueError("evidence maps need an EfficientNet, and the run has model.custom")

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
    positions = features.shape[1] * features.shape[2]
    return logits, jax.nn.relu(jnp.einsum("phwc,pkc->pkhw", features, weights)) / positions


def _attention(
    model: EfficientNet,
    variables: dict,
    features: Float[Array, "image rows columns channel"],
    chosen: Int32[Array, "image k"],
) -> tuple[Float[Array, "image class"], Float[Array, "image k rows columns"]]:
    result: Any = model.apply(variables, features, method="classify", mutable=[INTERMEDIATES])
    logits, sown = result
    (weights,) = sown[INTERMEDIATES]["head"][ATTENTION]
    groups = model.decoder.groups if model.decoder else 0
    queries = jnp.asarray(query_of_class(model.num_classes, groups))[chosen]
    shares = jnp.take_along_axis(weights.mean(axis=1), queries[..., None], axis=1)
    return logits, shares.reshape(*chosen.shape, *features.shape[1:3])


def overlay(
    image: UInt8[np.ndarray, "height width channel"],
    heat: Float[np.ndarray, "rows columns"],
    box: Box,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws an evidence map over the part of the image that the network saw.

    Each map is scaled by its own maximum, so colours of different maps are not comparable.  A map
    of zeros leaves the image unchanged.

    Args:
        image: the image, after its EXIF rotation; see `as_rgb` for what is shown of it.
        heat: the map, non-negative.
        box: the part that the network saw, in pixels of the image; it may extend beyond.

    Returns:
        A new image; the colours are OpenCV's "inferno" map, yellow at the maximum.
    """
    largest = float(heat.max())
    scaled = (heat / largest if largest > 0 else heat).astype(np.float32)
    height, width = image.shape[:2]
    resized = _within(scaled, 0, box.top, box.height, height)
    resized = _within(resized, 1, box.left, box.width, width).clip(0, 1)
    colours = cv2.applyColorMap(np.rint(resized * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    weight = MAX_OPACITY * resized[..., None]
    result = as_rgb(image).copy()
    top, left = max(box.top, 0), max(box.left, 0)
    part = result[top : top + resized.shape[0], left : left + resized.shape[1]]
    part[:] = np.rint(part * (1 - weight) + colours[..., ::-1] * weight)
    return result


def _within(heat: np.ndarray, axis: int, start: int, length: int, side: int) -> np.ndarray:
    """The map with an axis resized to `length` pixels from `start`, cut to those of the image."""
    sides = list(heat.shape)
    sides[axis] = length
    resized = cv2.resize(heat, sides[::-1], interpolation=cv2.INTER_CUBIC)
    return resized.take(range(max(-start, 0), min(side - start, length)), axis)
