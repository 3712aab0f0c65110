"""Losses per image and class, and their average over the known labels."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from mlcls_jax.config import Loss as LossConfig
from mlcls_jax.config.extensions import resolve
from mlcls_jax.data.label_table import UNKNOWN

# (logits, labels), both float32 [batch, class] -> losses of the same shape.  Labels are in [0, 1]
# or UNKNOWN.  At UNKNOWN the loss is arbitrary, but it and its gradient must be finite, because the
# mask of `known_sum` turns any finite number into 0 and leaves a NaN.
Loss = Callable[[jax.Array, jax.Array], jax.Array]

SMALLEST_SHARE = 1e-3  # lower limit of a class frequency in `prior_bias`


def make_loss(
    config: LossConfig, num_classes: int, frequencies: Sequence[float] | np.ndarray | None
) -> Loss:
    """Returns the loss function of a config.

    Args:
        config: the section of the config.
        num_classes: number of classes.
        frequencies: float [class], share of positives among the known labels of train; None if
            unknown, which is an error if the loss depends on them.

    Raises:
        ValueError: see `pos_weights`.
    """
    if config.custom:
        loss = partial(custom, function=resolve(config.custom, "loss.custom"), name=config.custom)
    elif config.name == "focal":
        loss = partial(sigmoid_focal, gamma=config.gamma, alpha=config.alpha)
    elif config.name == "asl":
        loss = partial(
            asymmetric,
            gamma_pos=config.gamma_pos,
            gamma_neg=config.gamma_neg,
            clip=config.clip,
            focus_gradient=config.focus_gradient,
        )
    elif config.pos_weight == 1.0:
        loss = sigmoid_bce
    else:
        loss = partial(weighted_bce, pos_weight=pos_weights(config, num_classes, frequencies))
    if not config.label_smoothing:
        return loss
    return lambda logits, labels: loss(logits, smooth(labels, config.label_smoothing))


def describe_loss(config: LossConfig) -> str:
    """Returns the name of a loss, such as "bce", "asl", "weighted bce" or "smoothed bce".

    Only plain "bce" can be compared with the loss of evaluations.

    Args:
        config: the section of the config.

    >>> describe_loss(LossConfig("bce", pos_weight="auto", label_smoothing=0.1))
    'smoothed weighted bce'
    """
    name = config.custom.partition(":")[2] or config.name
    weighted = config.name == "bce" and config.pos_weight != 1.0
    words = ["smoothed"] * bool(config.label_smoothing) + ["weighted"] * weighted
    return " ".join([*words, name])


def sigmoid_bce(
    logits: Float[Array, "batch class"], labels: Float[Array, "batch class"]
) -> Float[Array, "batch class"]:
    """Returns the binary cross-entropy of each class in nats, unreduced.

    It is finite for every finite logit.

    Args:
        logits, labels: see Loss.

    >>> losses = sigmoid_bce(jnp.array([[0.0, 2.0]]), jnp.array([[1.0, 0.0]]))
    >>> [round(float(loss), 4) for loss in losses[0]]
    [0.6931, 2.1269]
    """
    return optax.sigmoid_binary_cross_entropy(logits, labels)


def weighted_bce(
    logits: Float[Array, "batch class"],
    labels: Float[Array, "batch class"],
    *,
    pos_weight: Float[np.ndarray, " class"],
) -> Float[Array, "batch class"]:
    """Returns the binary cross-entropy with weighted positives, unreduced.

    -w y log p - (1 - y) log(1 - p), as in PyTorch's BCEWithLogitsLoss(pos_weight=w).  At its
    optimum, the odds p / (1 - p) are w times those of the true probability.

    Args:
        logits, labels: see Loss.
        pos_weight: w, float32 [class].
    """
    log_p, log_not_p = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -(jnp.asarray(pos_weight)[None, :] * labels * log_p + (1.0 - labels) * log_not_p)


def sigmoid_focal(
    logits: Float[Array, "batch class"],
    labels: Float[Array, "batch class"],
    *,
    gamma: float,
    alpha: float | None,
) -> Float[Array, "batch class"]:
    """Returns the focal loss of each class, unreduced (Lin et al., arXiv:1708.02002).

    BCE times (1 - q)^gamma, where q = y p + (1 - y)(1 - p) is the probability of the label.  It
    reduces the weight of labels that are already predicted well; gamma=0 is BCE.

    Args:
        logits, labels: see Loss.
        gamma: focusing exponent, at least 0.
        alpha: weight of positives; negatives have 1 - alpha.  None: both have weight 1.
    """
    # UNKNOWN is negative, and would lead to the logarithm of a negative number.
    labels = jnp.maximum(labels, 0.0)
    return optax.sigmoid_focal_loss(logits, labels, alpha=alpha, gamma=gamma)


def asymmetric(
    logits: Float[Array, "batch class"],
    labels: Float[Array, "batch class"],
    *,
    gamma_pos: float,
    gamma_neg: float,
    clip: float,
    focus_gradient: bool,
) -> Float[Array, "batch class"]:
    """Returns the asymmetric loss of each class, unreduced (Ben-Baruch et al., arXiv:2009.14119).

    -y (1 - p)^gamma_pos log p - (1 - y) r^gamma_neg log(1 - r), where r = max(p - clip, 0).
    Negatives with p below `clip` have no loss, and easy negatives have little.  With all settings
    at 0 it is BCE.

    Each part of a soft label has its own exponent.  For labels 0 and 1 this equals the authors'
    code with one exception: theirs uses log(max(p, 1e-8)), which has no gradient below logit -18.
    Such positives can still be learned here.

    Args:
        logits, labels: see Loss.
        gamma_pos, gamma_neg: focusing exponents, at least 0.
        clip: probability margin of negatives, in [0, 1).
        focus_gradient: whether gradients flow through the powers.  If not, they are constant
            weights, as in the authors' training.
    """
    log_not_p = jax.nn.log_sigmoid(-logits)
    # log(1 - r) = min(log(1 - p + clip), 0) in a form that is finite, even with clip=0.
    log_clip = math.log(clip) if clip else -math.inf
    log_not_r = jnp.minimum(jnp.logaddexp(log_not_p, log_clip), 0.0)
    not_p, r = jnp.exp(log_not_p), -jnp.expm1(log_not_r)
    positive = _power(not_p, gamma_pos, focus_gradient) * -jax.nn.log_sigmoid(logits)
    negative = _power(r, gamma_neg, focus_gradient) * -log_not_r
    return labels * positive + (1.0 - labels) * negative


def custom(
    logits: Float[Array, "batch class"],
    labels: Float[Array, "batch class"],
    *,
    function: Loss,
    name: str,
) -> Float[Array, "batch class"]:
    """Returns the losses of a function of the user, after checking their shape.

    Args:
        logits, labels: see Loss.
        function: see Loss.
        name: of the function, for the message.

    Raises:
        ValueError: the result does not have one loss per image and class.
    """
    losses = function(logits, labels)
    if jnp.shape(losses) != logits.shape:
        raise ValueError(
            f"config: loss.custom={name} returns an array of shape {list(jnp.shape(losses))} for "
            f"logits of shape {list(logits.shape)}; it must return the loss of each image and "
            "class, without a mean or a sum"
        )
    return losses.astype(jnp.float32)


def smooth(labels: Float[Array, "batch class"], amount: float) -> Float[Array, "batch class"]:
    """Returns smoothed labels, y (1 - amount) + amount / 2; unknown labels stay unknown.

    Label smoothing (Szegedy et al., arXiv:1512.00567), where each class is a binary problem.

    Args:
        labels: see Loss.
        amount: in [0, 1).

    >>> smooth(jnp.array([[0.0, 1.0, UNKNOWN]]), 0.5).tolist()
    [[0.25, 0.75, -1.0]]
    """
    return jnp.where(labels == UNKNOWN, labels, labels * (1.0 - amount) + amount / 2.0)


def known_sum(
    losses: Float[Array, "batch class"], labels: Float[Array, "batch class"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the sum of the losses at known labels and the number of known labels.

    Sums of devices and batches can be added, unlike means over unequal numbers of known labels.
    The mean loss is the total of the first divided by the total of the second.

    Args:
        losses: see Loss.
        labels: see Loss.

    Returns:
        Two float32 scalars.

    >>> total, count = known_sum(jnp.array([[0.5, 2.0, 9.0]]), jnp.array([[1.0, 0.0, UNKNOWN]]))
    >>> float(total), float(count)
    (2.5, 2.0)
    """
    known = labels != UNKNOWN
    return jnp.where(known, losses, 0.0).sum(), known.sum(dtype=jnp.float32)


def pos_weights(
    config: LossConfig, num_classes: int, frequencies: Sequence[float] | np.ndarray | None
) -> Float[np.ndarray, " class"]:
    """Returns the weight of positive labels for each class, float32.

    With "auto" it is the number of negatives per positive in train, limited to the range from
    1 / pos_weight_max to pos_weight_max.  Without the limit, a class with one positive in
    thousands would dominate the gradient by a single label.  The weight is 1 for a class with only
    positives or only negatives.

    Args:
        config, num_classes, frequencies: see `make_loss`.

    Raises:
        ValueError: a list whose length is not the number of classes, or "auto" without
            frequencies.

    >>> pos_weights(LossConfig(pos_weight="auto", pos_weight_max=10.0), 3, [0.5, 0.2, 0.01])
    array([ 1.,  4., 10.], dtype=float32)
    """
    given = config.pos_weight
    if isinstance(given, list) and len(given) != num_classes:
        raise ValueError(
            f"config: loss.pos_weight has {len(given)} numbers for {num_classes} classes; write "
            "one number per class, in the order of the CSV's columns"
        )
    if given != "auto":
        return np.broadcast_to(np.asarray(given, np.float32), num_classes)
    if frequencies is None:
        raise ValueError('config: loss.pos_weight="auto" needs training labels; write a number')
    share = np.asarray(frequencies, np.float64)
    has_both = (share > 0) & (share < 1)
    share = np.where(has_both, share, 0.5)
    limit = config.pos_weight_max
    return np.clip((1 - share) / share, 1 / limit, limit).astype(np.float32)


def prior_bias(
    config: LossConfig, frequencies: Sequence[float] | np.ndarray
) -> Float[np.ndarray, " class"]:
    """Returns the bias of the head that predicts the class frequencies, float32 [class].

    Training then starts at the loss of a constant predictor (Lin et al., arXiv:1708.02002, section
    3.3).  Weighted positives add the logarithm of their weight, because they multiply the odds at
    the optimum.  Frequencies are limited to the range from SMALLEST_SHARE to 1 - SMALLEST_SHARE,
    so that every class starts with a gradient.

    Args:
        config: the section of the config.
        frequencies: float [class], share of positives among the known labels of train.

    Raises:
        ValueError: see `pos_weights`.

    >>> np.round(prior_bias(LossConfig(), [0.5, 0.1]).astype(float), 3).tolist()
    [0.0, -2.197]
    """
    share = np.clip(np.asarray(frequencies, np.float64), SMALLEST_SHARE, 1 - SMALLEST_SHARE)
    odds = pos_weights(config, len(share), frequencies) * share / (1 - share)
    return np.log(odds).astype(np.float32)


def _power(base: jax.Array, exponent: float, gradient: bool) -> jax.Array | float:
    """Returns base ** exponent for a base in [0, 1], with a finite gradient at 0 or with none."""
    if exponent == 0.0:
        return 1.0
    power = jnp.where(base > 0.0, jnp.where(base > 0.0, base, 1.0) ** exponent, 0.0)
    return power if gradient else jax.lax.stop_gradient(power)
