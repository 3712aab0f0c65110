"""Mixup and CutMix: the two images of each pair in a batch are mixed, inside the step."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Key, UInt32

from mlcls_jax.config import Augment
from mlcls_jax.data.batch import Batch
from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.step.train_step import Inputs

_STREAM = 0x6D6978  # separates these random numbers from those of dropout


def mixes(augment: Augment) -> bool:
    """Returns whether the config mixes images."""
    return bool(augment.mixup or augment.cutmix)


def check_pairs(rows: int) -> None:
    """Checks that a device processes an even number of images at a time.

    Args:
        rows: images per device and part of a batch.

    Raises:
        ValueError: the number is odd.
    """
    if rows % 2:
        raise ValueError(
            "config: data.batch_size gives each device an odd number of images at a time "
            f"({rows}), but augment.mixup and augment.cutmix need pairs; change data.batch_size so "
            "that this number is even"
        )


def make_mixed_inputs(inputs: Inputs, augment: Augment, seed: int) -> Inputs:
    """Returns a function like `inputs` that also mixes each image with its neighbour.

    Rows 2k and 2k + 1 are a pair; the order of the images is shuffled in each epoch.  Both keep the
    same share of themselves and take the rest from each other.  The random numbers depend only on
    the seed and the pair's position in the stream.  Therefore they are the same for any number of
    devices and any split of a batch into parts with even numbers of rows.

    Mixup (Zhang et al. 2018, arXiv:1710.09412) mixes every pixel by a share from
    Beta(alpha, alpha).  It is applied to normalised pixels, which is equivalent.  CutMix (Yun et
    al. 2019, arXiv:1905.04899) draws the share in the same way, and replaces a box with about the
    area of the rest.

    Args:
        inputs: see Inputs.
        augment: its fields mixup, cutmix and mixed_labels are used; mixup or cutmix must be on.
        seed: of the run.
    """

    def mixed(batch: Batch) -> tuple[jax.Array, jax.Array]:
        pixels, labels = inputs(batch)
        rows, size = pixels.shape[:2]
        check_pairs(rows)
        keys = pair_keys(seed, batch.position[::2])
        shares, boxes = jax.vmap(lambda key: draw_pair(key, size, augment))(keys)
        shares, boxes = (
            jnp.repeat(x, 2, axis=0, total_repeat_length=rows) for x in (shares, boxes)
        )
        kept = kept_shares(shares, boxes, size)[..., None]
        areas = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
        label_shares = shares * (1.0 - areas.astype(jnp.float32) / size**2)
        labels = mix_labels(labels, _others(labels), label_shares[:, None], augment.mixed_labels)
        # Not other + kept * (own - other), which would round pixels that an image keeps entirely.
        return kept * pixels + (1.0 - kept) * _others(pixels), labels

    return mixed


def pair_keys(seed: int, positions: UInt32[Array, " pair"]) -> Key[Array, " pair"]:
    """Returns a random key for each pair.

    Args:
        seed: of the run.
        positions: uint32 [pair], position of the first image of each pair in the stream.
    """
    stream = jax.random.fold_in(jax.random.key(seed), _STREAM)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(stream, positions // jnp.uint32(2))


def draw_pair(
    key: Key[Array, ""], size: int, augment: Augment
) -> tuple[Float[Array, ""], Int32[Array, "4"]]:
    """Draws how a pair is mixed.

    If mixup and CutMix are both on, each is used with probability 1/2.

    Args:
        key: of the pair.
        size: side of the images in pixels.
        augment: its fields mixup and cutmix are used; at least one must be on.

    Returns:
        The share of itself that each image keeps, float32, 1 for CutMix; and the box that it takes
        from the other, int32 (top, bottom, left, right) in pixels, empty for mixup.
    """
    choice, draw, place = jax.random.split(key, 3)
    no_box = jnp.zeros(4, jnp.int32)
    if not augment.cutmix:
        return jax.random.beta(draw, augment.mixup, augment.mixup), no_box
    cuts = jax.random.bernoulli(choice) if augment.mixup else jnp.array(True)
    alpha = jnp.where(cuts, augment.cutmix, augment.mixup or augment.cutmix)
    share = jax.random.beta(draw, alpha, alpha)
    box = random_box(share, jax.random.randint(place, (2,), 0, size), size)
    return jnp.where(cuts, 1.0, share), jnp.where(cuts, box, no_box)


def random_box(share: Float[Array, ""], center: Int32[Array, "2"], size: int) -> Int32[Array, "4"]:
    """Returns the square of CutMix, clipped to the image, as in the authors' code.

    Args:
        share: share of the image's area outside the square, before clipping.
        center: row and column in pixels.
        size: side of the image in pixels.

    Returns:
        int32 (top, bottom, left, right) in pixels; bottom and right are exclusive.
    """
    half = jnp.floor(size * jnp.sqrt(1.0 - share)).astype(jnp.int32) // 2
    ends = jnp.clip(jnp.stack([center - half, center + half], axis=1), 0, size)
    return ends.reshape(4)


def kept_shares(
    shares: Float[Array, " batch"], boxes: Int32[Array, "batch 4"], size: int
) -> Float[Array, "batch size size"]:
    """Returns the share of itself that an image keeps at each pixel: 0 inside its box.

    Args:
        shares: float32 [batch], outside the box.
        boxes: int32 [batch, 4], see `random_box`.
        size: side of the images in pixels.
    """
    pixel = jnp.arange(size, dtype=jnp.int32)
    top, bottom, left, right = (boxes[:, i, None] for i in range(4))
    rows, columns = (top <= pixel) & (pixel < bottom), (left <= pixel) & (pixel < right)
    inside = rows[:, :, None] & columns[:, None, :]
    return jnp.where(inside, 0.0, shares[:, None, None])


def mix_labels(
    own: Float[Array, "batch class"],
    others: Float[Array, "batch class"],
    share: Float[Array, "batch 1"],
    mixed_labels: str,
) -> Float[Array, "batch class"]:
    """Returns the labels of mixed images, in [0, 1] or UNKNOWN.

    A label is unknown if it is unknown in an image of which any part is visible.

    Args:
        own: labels of each image.
        others: labels of the image that is mixed into it.
        share: share of the first image.
        mixed_labels: "mixed" weights labels by the shares; "union" keeps the labels of every image
            of which any part is visible.
    """
    own_seen, others_seen = share > 0, share < 1
    unknown = (own_seen & (own == UNKNOWN)) | (others_seen & (others == UNKNOWN))
    if mixed_labels == "union":
        labels = jnp.maximum(jnp.where(own_seen, own, 0.0), jnp.where(others_seen, others, 0.0))
    else:
        labels = share * own + (1.0 - share) * others
    return jnp.where(unknown, float(UNKNOWN), labels)


def _others(rows: jax.Array) -> jax.Array:
    """Returns the rows with the two of each pair swapped: 1, 0, 3, 2 and so on."""
    return rows.reshape(-1, 2, *rows.shape[1:])[:, ::-1].reshape(rows.shape)
