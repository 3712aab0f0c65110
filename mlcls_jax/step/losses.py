"""Losses per (image, class), and the one way to average them over the known labels."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from mlcls_jax.config import Loss as LossConfig
from mlcls_jax.data.label_table import UNKNOWN

# (logits, labels), both float32 [batch, class] -> losses of the same shape.  Labels are in [0, 1],
# or UNKNOWN, where the loss means nothing, but is finite and has a finite gradient: the mask of
# `known_sum` makes a zero of any number, and a NaN of a NaN.
Loss = Callable[[jax.Array, jax.Array], jax.Array]

SMALLEST_SHARE = 1e-3  # share of positives that `prior_bias` takes a class to have at least


def make_loss(
    config: LossConfig, num_classes: int, frequencies: Sequence[float] | np.ndarray | None
) -> Loss:
    """The loss of a config.

    Args:
        config: of the loss.
        num_classes: of the run.
        frequencies: share of positives among the known labels of train, per class; None where
            nobody knows them, which is an error if the loss depends on them.

    Raises:
        ValueError: see `pos_weights`.
    """
    if config.name == "focal":
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
    """The name of the loss: "bce" only where it compares with the loss of an evaluation; else such
    as "asl", "weighted bce" or "smoothed bce"."""
    weighted = config.name == "bce" and config.pos_weight != 1.0
    words = ["smoothed"] * bool(config.label_smoothing) + ["weighted"] * weighted
    return " ".join([*words, config.name])


def sigmoid_bce(
    logits: Float[Array, "batch class"], labels: Float[Array, "batch class"]
) -> Float[Array, "batch class"]:
    """Binary cross-entropy of each class in nats, unreduced; finite for every finite logit.

    Args:
        logits, labels: see Loss.
    """
    return optax.sigmoid_binary_cross_entropy(logits, labels)


def weighted_bce(
    logits: Float[Array, "batch class"],
    labels: Float[Array, "batch class"],
    *,
    pos_weight: Float[np.ndarray, " class"],
) -> Float[Array, "batch class"]:
    """Binary cross-entropy whose positive part counts pos_weight times, unreduced.

    -w y log p - (1 - y) log(1 - p), as PyTorch's BCEWithLogitsLoss(pos_weight=w).  Its optimum is
    no probability, but one whose odds are w times as high.

    Args:
        logits, labels: see Loss.
        pos_weight: w, float32, of each class.
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
    """Focal loss of each class, unreduced (Lin et al., arXiv:1708.02002).

    BCE times (1 - q)^gamma, where q = y p + (1 - y)(1 - p) is the probability of the label, so
    that what is learned already counts less; gamma=0 is BCE.

    Args:
        logits, labels: see Loss.
        gamma: at least 0.
        alpha: weight of positives, that of negatives being 1 - alpha; None: both have weight 1.
    """
    # At a negative label, the logarithm inside would be that of a negative number.
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
    """Asymmetric loss of each class, unreduced (Ben-Baruch et al., arXiv:2009.14119).

    y (1 - p)^gamma_pos -log p + (1 - y) r^gamma_neg -log(1 - r), where r = max(p - clip, 0).  So
    negatives below `clip` teach nothing, and easy ones little.  All of it 0 is BCE.

    The two parts of a soft label are weighted each by its own exponent.  The authors' code, which
    is for labels 0 and 1, is the same there but for one thing: it takes log(max(p, 1e-8)), whose
    gradient is 0 below, so that a positive below logit -18 is never learned again.  Here it is.

    Args:
        logits, labels: see Loss.
        gamma_pos, gamma_neg: at least 0.
        clip: in [0, 1).
        focus_gradient: whether the powers have a gradient too, or are constant weights, which is
            what the authors train with.
    """
    log_not_p = jax.nn.log_sigmoid(-logits)
    # log(1 - r) = min(log(1 - p + clip), 0) in a form that is finite, with clip=0 as well.
    log_clip = math.log(clip) if clip else -math.inf
    log_not_r = jnp.minimum(jnp.logaddexp(log_not_p, log_clip), 0.0)
    missed, false = jnp.exp(log_not_p), -jnp.expm1(log_not_r)
    positive = _power(missed, gamma_pos, focus_gradient) * -jax.nn.log_sigmoid(logits)
    negative = _power(false, gamma_neg, focus_gradient) * -log_not_r
    return labels * positive + (1.0 - labels) * negative


def smooth(labels: Float[Array, "batch class"], amount: float) -> Float[Array, "batch class"]:
    """Labels drawn to one half, y (1 - amount) + amount / 2; unknown ones stay unknown.

    Szegedy et al., arXiv:1512.00567, for classes that are two-way questions each.
    """
    return jnp.where(labels == UNKNOWN, labels, labels * (1.0 - amount) + amount / 2.0)


def known_sum(
    losses: Float[Array, "batch class"], labels: Float[Array, "batch class"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The sum of the losses at known labels and the number of known labels, both float32.

    Sums, not means, so that devices and batches with unequal numbers of known labels merge
    exactly: divide the total of the first by the total of the second.
    """
    known = labels != UNKNOWN
    return jnp.where(known, losses, 0.0).sum(), known.sum(dtype=jnp.float32)


def pos_weights(
    config: LossConfig, num_classes: int, frequencies: Sequence[float] | np.ndarray | None
) -> Float[np.ndarray, " class"]:
    """What a positive label counts, per class, float32: the config's numbers or, with "auto", the
    negatives per positive in train.

    "auto" is kept between 1 / pos_weight_max and pos_weight_max: a class with one positive among
    thousands would else decide over the others' gradient, and one label about it.  It is 1 where a
    class has only positives or only negatives, as there is nothing to balance.

    Args: as of `make_loss`.

    Raises:
        ValueError: a list with not one number per class, or "auto" without frequencies.
    """
    given = config.pos_weight
    if isinstance(given, list) and len(given) != num_classes:
        raise ValueError(
            f"config: loss.pos_weight has {len(given)} numbers for {num_classes} classes; write "
            "one for each, in the order of the CSV's columns"
        )
    if given != "auto":
        return np.broadcast_to(np.asarray(given, np.float32), num_classes)
    if frequencies is None:
        raise ValueError('config: loss.pos_weight="auto" needs labels to count; write a number')
    share = np.asarray(frequencies, np.float64)
    both = (share > 0) & (share < 1)
    share = np.where(both, share, 0.5)
    most = config.pos_weight_max
    return np.clip((1 - share) / share, 1 / most, most).astype(np.float32)


def prior_bias(
    config: LossConfig, frequencies: Sequence[float] | np.ndarray
) -> Float[np.ndarray, " class"]:
    """The head's bias, float32, whose probabilities are the frequencies of the classes.

    So training begins at the loss of a constant predictor, and not with the steps that it takes
    every class to become rare (Lin et al., arXiv:1708.02002, 3.3).  With weighted positives, which
    multiply the odds of the optimum, it is their logarithm higher.  Shares are kept between
    SMALLEST_SHARE and 1 - SMALLEST_SHARE, so that no class begins where it has no gradient.

    Args:
        config: of the loss.
        frequencies: share of positives among the known labels of train, per class.

    Raises:
        ValueError: see `pos_weights`.
    """
    share = np.clip(np.asarray(frequencies, np.float64), SMALLEST_SHARE, 1 - SMALLEST_SHARE)
    odds = pos_weights(config, len(share), frequencies) * share / (1 - share)
    return np.log(odds).astype(np.float32)


def _power(base: jax.Array, exponent: float, gradient: bool) -> jax.Array | float:
    """base ** exponent with base in [0, 1], or its value alone; no infinite gradient at 0."""
    if exponent == 0.0:
        return 1.0
    power = jnp.where(base > 0.0, jnp.where(base > 0.0, base, 1.0) ** exponent, 0.0)
    return power if gradient else jax.lax.stop_gradient(power)
