"""Mixup and CutMix: pairs of images of a batch become mixtures of each other, inside the step."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Key, UInt32

from mlcls_jax.config import Augment
from mlcls_jax.data.batch import Batch
from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.step.train_step import Inputs

_STREAM = 0x6D6978  # of random numbers, apart from that of dropout


def mixes(augment: Augment) -> bool:
    """Whether images are mixed at all."""
    return augment.mixup > 0 or augment.cutmix > 0


def check_pairs(rows: int) -> None:
    """That the images that a device works on at once are pairs.

    Raises:
        ValueError: they are not; names data.batch_size.
    """
    if rows % 2:
        raise ValueError(
            f"config: data.batch_size gives each device an odd number of images at a time "
            f"({rows}), which augment.mixup and augment.cutmix cannot pair; make that even"
        )


def make_mixed_inputs(inputs: Inputs, augment: Augment, seed: int) -> Inputs:
    """What `inputs` gives, each image mixed with its neighbour.

    Rows 2k and 2k + 1 are a pair: the order is shuffled in each epoch.  Both keep the same share of
    themselves and take the rest from each other.  All that is random is a function of (seed, the
    pair's place in the stream), so it depends neither on the number of devices nor on the parts
    that a batch is computed in, as long as these have even numbers of rows.

    Mixup (Zhang et al. 2018, arXiv:1710.09412) takes the share, drawn from Beta(alpha, alpha), of
    every pixel; of normalised ones, which is the same as before.  CutMix (Yun et al. 2019,
    arXiv:1905.04899) draws it likewise, and replaces a box of about the rest's area.

    Args:
        inputs: see Inputs.
        augment: mixup and cutmix, of which at least one is on, and mixed_labels.
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
        of_labels = shares * (1.0 - areas.astype(jnp.float32) / size**2)
        labels = mix_labels(labels, _others(labels), of_labels[:, None], augment.mixed_labels)
        # Not other + kept * (own - other): where an image keeps all, it stays as it is.
        return kept * pixels + (1.0 - kept) * _others(pixels), labels

    return mixed


def pair_keys(seed: int, positions: UInt32[Array, " pair"]) -> Key[Array, " pair"]:
    """A key for each pair, from the position of its first image."""
    stream = jax.random.fold_in(jax.random.key(seed), _STREAM)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(stream, positions // jnp.uint32(2))


def draw_pair(
    key: Key[Array, ""], size: int, augment: Augment
) -> tuple[Float[Array, ""], Int32[Array, "4"]]:
    """How a pair is mixed: the share that each keeps of a pixel, and the box where it keeps none.

    With mixup and cutmix both on, one of them with probability 1/2.

    Args:
        key: of the pair.
        size: side of the images in pixels.
        augment: mixup and cutmix, of which at least one is on.

    Returns:
        The share, 1 for CutMix, and (top, bottom, left, right), empty for mixup.
    """
    choice, draw, place = jax.random.split(key, 3)
    nothing = jnp.zeros(4, jnp.int32)
    if not augment.cutmix:
        return jax.random.beta(draw, augment.mixup, augment.mixup), nothing
    cuts = jax.random.bernoulli(choice) if augment.mixup else jnp.array(True)
    alpha = jnp.where(cuts, augment.cutmix, augment.mixup)
    share = jax.random.beta(draw, alpha, alpha)
    box = random_box(share, jax.random.randint(place, (2,), 0, size), size)
    return jnp.where(cuts, 1.0, share), jnp.where(cuts, box, nothing)


def random_box(share: Float[Array, ""], center: Int32[Array, "2"], size: int) -> Int32[Array, "4"]:
    """CutMix's square, cut off at the edges: (top, bottom, left, right) as in the authors' code.

    Args:
        share: of the image's area outside of the square, before it is cut off.
        center: row and column.
        size: side of the image in pixels.
    """
    half = jnp.floor(size * jnp.sqrt(1.0 - share)).astype(jnp.int32) // 2
    ends = jnp.clip(jnp.stack([center - half, center + half], axis=1), 0, size)
    return ends.reshape(4)


def kept_shares(
    shares: Float[Array, " batch"], boxes: Int32[Array, "batch 4"], size: int
) -> Float[Array, "batch size size"]:
    """The share of each pixel that is the image's own: that of the image, and 0 in its box."""
    pixel = jnp.arange(size, dtype=jnp.int32)
    top, bottom, left, right = (boxes[:, i, None] for i in range(4))
    rows, columns = (top <= pixel) & (pixel < bottom), (left <= pixel) & (pixel < right)
    inside = rows[:, :, None] & columns[:, None, :]
    return jnp.where(inside, 0.0, shares[:, None, None])


def mix_labels(
    own: Float[Array, "batch class"],
    others: Float[Array, "batch class"],
    share: Float[Array, "batch 1"],
    how: str,
) -> Float[Array, "batch class"]:
    """Labels of mixtures, in [0, 1] or UNKNOWN, where an image that is seen has it unknown.

    Args:
        own, others: of each image and of the one that is mixed into it.
        share: of the first.
        how: "mixed": by their shares; "union": all that is in either, if it is seen.
    """
    own_seen, others_seen = share > 0, share < 1
    unknown = (own_seen & (own == UNKNOWN)) | (others_seen & (others == UNKNOWN))
    if how == "union":
        labels = jnp.maximum(jnp.where(own_seen, own, 0.0), jnp.where(others_seen, others, 0.0))
    else:
        labels = share * own + (1.0 - share) * others
    return jnp.where(unknown, float(UNKNOWN), labels)


def _others(rows: jax.Array) -> jax.Array:
    """Rows 1, 0, 3, 2 and so on."""
    return rows.reshape(-1, 2, *rows.shape[1:])[:, ::-1].reshape(rows.shape)
