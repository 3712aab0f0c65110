"""Losses equal their formulas, and unknown labels have neither loss nor gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from live_losses import ASYMMETRIC, FOCAL, POS_WEIGHT, batch, inputs, soft_batch
from stored_values import stored
from tolerances import EPS, sum_atol

from mlcls_jax.config import Loss
from mlcls_jax.data.label_table import UNKNOWN
from mlcls_jax.step.losses import (
    asymmetric,
    describe_loss,
    known_sum,
    make_loss,
    pos_weights,
    prior_bias,
    sigmoid_bce,
    sigmoid_focal,
    smooth,
    weighted_bce,
)

# Of a loss or gradient of one label, relative: exp turns the rounding of a logit, which is at most
# some EPS/2 times its size of up to 13, into as much of its result.
RTOL = 32 * EPS
# The same where 1 - p is taken of a p that is rounded by EPS: what is left may be any smaller.
ATOL = 8 * EPS
FREQUENCIES = (0.5, 0.02, 0.3, 0.0, 1.0)  # of five classes
PLAIN = {"gamma_pos": 0.0, "gamma_neg": 0.0, "clip": 0.0, "focus_gradient": False}
SETTINGS = [
    Loss(),
    Loss(label_smoothing=0.1),
    Loss(pos_weight=2.5),
    Loss(pos_weight=[0.1, 1.0, 2.0, 3.0, 1e3]),
    Loss(pos_weight="auto", pos_weight_max=50.0),
    *(
        Loss("focal", gamma=gamma, alpha=alpha)
        for gamma in (0.0, 0.5, 5.0)
        for alpha in (None, 0.2)
    ),
    *(
        Loss("asl", gamma_pos=pos, gamma_neg=neg, clip=clip, focus_gradient=gradient)
        for pos, neg in ((0.0, 0.0), (0.3, 0.3), (1.0, 4.0))
        for clip in (0.0, 1e-6, 0.05, 0.9)
        for gradient in (False, True)
    ),
    Loss("asl", label_smoothing=0.2),
]


@pytest.fixture(autouse=True)
def strict_dtypes():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def total(logits, labels):
    return known_sum(sigmoid_bce(logits, labels), labels)[0]


def formula(logits, labels):
    """-y log p - (1 - y) log(1 - p) in float64, with log p = -log(1 + exp(-x))."""
    x, y = logits.astype(np.float64), labels.astype(np.float64)
    return y * np.logaddexp(0, -x) + (1 - y) * np.logaddexp(0, x)


def test_the_loss_is_the_formula_unreduced():
    logits, labels = batch()
    labels = np.abs(labels)  # known ones only
    losses = jax.jit(sigmoid_bce)(jnp.asarray(logits), jnp.asarray(labels))
    assert losses.shape == logits.shape and losses.dtype == jnp.float32
    np.testing.assert_allclose(losses, formula(logits, labels), rtol=RTOL)


def test_the_gradient_is_probability_minus_label():
    logits, labels = batch(1)
    gradient = np.asarray(jax.grad(total)(jnp.asarray(logits), jnp.asarray(labels)))
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = np.where(labels == UNKNOWN, 0, probability - labels)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=RTOL)  # of up to 1
    assert (gradient[labels == UNKNOWN] == 0).all()
    assert (gradient[labels != UNKNOWN] != 0).all()


def test_unknown_labels_are_in_neither_sum():
    logits, labels = batch(2)
    known = labels != UNKNOWN
    loss, count = jax.jit(lambda x, y: known_sum(sigmoid_bce(x, y), y))(
        jnp.asarray(logits), jnp.asarray(labels)
    )
    assert loss.dtype == count.dtype == jnp.float32
    assert loss.shape == count.shape == ()
    assert int(count) == known.sum() < labels.size
    expected = formula(logits, labels)[known].sum()
    near = sum_atol(labels.size, expected)  # no loss is negative
    np.testing.assert_allclose(loss, expected, rtol=RTOL, atol=near)


def test_the_logit_at_an_unknown_label_does_not_matter():
    logits, labels = batch(3)
    other = np.where(labels == UNKNOWN, np.float32(-90), logits)
    labels = jnp.asarray(labels)
    assert total(jnp.asarray(logits), labels) == total(jnp.asarray(other), labels)


def test_without_known_labels_loss_count_and_gradient_are_zero():
    logits = jnp.asarray(batch(4)[0])
    labels = jnp.full(logits.shape, UNKNOWN, jnp.float32)
    assert [float(x) for x in known_sum(sigmoid_bce(logits, labels), labels)] == [0, 0]
    assert (jax.grad(total)(logits, labels) == 0).all()


@pytest.mark.parametrize("label", [0, 1, UNKNOWN])
@pytest.mark.parametrize("logit", [-100.0, 100.0])
def test_loss_and_gradient_are_finite_and_right_at_logits_of_100(logit, label):
    x = jnp.full((1, 1), logit, jnp.float32)
    y = jnp.full((1, 1), label, jnp.float32)
    loss, gradient = jax.value_and_grad(total)(x, y)
    wrong = label != UNKNOWN and (logit > 0) != (label == 1)
    # exp(-100) is 4e-44, which some CPUs make a zero of.
    np.testing.assert_allclose(loss, 100.0 if wrong else 0.0, atol=1e-30)
    np.testing.assert_allclose(gradient[0, 0], np.sign(logit) if wrong else 0.0, atol=1e-30)


def test_parts_of_a_batch_merge_to_the_whole():
    logits, labels = map(jnp.asarray, batch(5, (12, 3)))
    losses = sigmoid_bce(logits, labels)
    whole = known_sum(losses, labels)
    parts = [known_sum(losses[rows], labels[rows]) for rows in (slice(0, 1), slice(1, 12))]
    merged = [sum(float(part[i]) for part in parts) for i in range(2)]
    assert merged[1] == whole[1]
    np.testing.assert_allclose(merged[0], whole[0], rtol=0, atol=sum_atol(losses.size, whole[0]))


def differ(a: Loss) -> str:
    """Returns the id of a setting: the fields that differ from the default."""
    pairs = zip(Loss.__slots__, (getattr(a, n) for n in Loss.__slots__), strict=True)
    return ",".join(f"{n}={v}" for n, v in pairs if v != getattr(Loss(), n)) or "default"


def values_and_gradients(loss, logits, labels) -> tuple[np.ndarray, np.ndarray]:
    """Returns the loss and the gradient of each element."""

    def summed(x, y):
        losses = loss(x, y)
        return known_sum(losses, y)[0], losses

    gradient, losses = jax.grad(summed, has_aux=True)(jnp.asarray(logits), jnp.asarray(labels))
    return np.asarray(losses), np.asarray(gradient)


def assert_stored(loss, name) -> None:
    """Compares a loss and its gradient with those of torch; see scripts/reference."""
    ours = values_and_gradients(loss, *inputs(name))
    for mine, other in zip(ours, stored("losses")[name], strict=True):
        np.testing.assert_allclose(mine, other, rtol=2e-5, atol=ATOL)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    "loss",
    [
        partial(weighted_bce, pos_weight=np.ones(5, np.float32)),
        partial(sigmoid_focal, gamma=0.0, alpha=None),
        partial(asymmetric, **PLAIN),
        partial(asymmetric, **PLAIN | {"focus_gradient": True}),
    ],
    ids=["pos_weight", "focal", "asl", "asl with gradient"],
)
def test_neutral_settings_equal_bce(loss, soft):
    logits, labels = soft_batch(6) if soft else batch(6)
    labels = np.abs(labels)
    plain = values_and_gradients(sigmoid_bce, logits, labels)
    for mine, other in zip(values_and_gradients(loss, logits, labels), plain, strict=True):
        np.testing.assert_allclose(mine, other, rtol=RTOL, atol=ATOL)


def test_weighted_positives_equal_those_of_torch():
    assert_stored(partial(weighted_bce, pos_weight=POS_WEIGHT), "weighted")


@pytest.mark.parametrize("name", FOCAL)
def test_focal_loss_is_its_formula_with_soft_labels_too(name):
    assert_stored(partial(sigmoid_focal, **FOCAL[name]), name)


@pytest.mark.parametrize("name", ASYMMETRIC)
def test_asymmetric_loss_is_its_formula_with_soft_labels_too(name):
    assert_stored(partial(asymmetric, **ASYMMETRIC[name]), name)


def test_only_negatives_above_the_clip_have_loss_and_gradient():
    logits = jnp.log(jnp.array([[0.04 / 0.96, 0.06 / 0.94]], jnp.float32))
    loss = make_loss(Loss("asl"), 2, None)
    losses, gradient = values_and_gradients(loss, logits, np.zeros((1, 2), np.float32))
    assert losses[0, 0] == gradient[0, 0] == 0
    assert losses[0, 1] > 0 and gradient[0, 1] > 0


@pytest.mark.parametrize("setting", SETTINGS, ids=differ)
def test_loss_and_gradient_are_finite_at_every_logit(setting):
    logits = np.float32([-1e30, -1e4, -100, -88, -20, 0, 20, 88, 100, 1e4, 1e30])
    labels = np.float32([0, 1e-7, 0.5, 1, UNKNOWN])
    grid = [np.ascontiguousarray(part) for part in np.meshgrid(logits, labels, indexing="ij")]
    with jax.debug_nans(True):
        losses, gradient = values_and_gradients(make_loss(setting, 5, FREQUENCIES), *grid)
    assert np.isfinite(losses).all() and np.isfinite(gradient).all()
    assert (losses[:, :-1] >= 0).all()
    assert (gradient[:, -1] == 0).all()
    assert (gradient[:3, 3] < 0).all()  # a missed positive always has a gradient


@pytest.mark.parametrize("setting", SETTINGS, ids=differ)
def test_unknown_labels_count_in_no_loss_and_no_gradient(setting):
    logits, labels = soft_batch(10)
    loss, known = make_loss(setting, 5, FREQUENCIES), labels != UNKNOWN
    other = np.where(known, logits, np.float32(-90))
    gradients = [values_and_gradients(loss, x, labels)[1] for x in (logits, other)]
    np.testing.assert_array_equal(*gradients)
    assert (gradients[0][~known] == 0).all()
    sums = [
        known_sum(loss(jnp.asarray(x), jnp.asarray(labels)), jnp.asarray(labels))
        for x in (logits, other)
    ]
    assert sums[0] == sums[1] and int(sums[0][1]) == known.sum()


def test_smoothing_moves_known_labels_towards_one_half():
    labels = jnp.array([[0, 1, 0.5, UNKNOWN]], jnp.float32)
    np.testing.assert_allclose(smooth(labels, 0.2), [[0.1, 0.9, 0.5, UNKNOWN]], rtol=1e-6)
    logits, labels = batch(11)
    smoothed = make_loss(Loss(label_smoothing=0.2), 5, None)(
        jnp.asarray(logits), jnp.asarray(labels)
    )
    expected = formula(logits, np.where(labels == UNKNOWN, labels, 0.8 * labels + 0.1))
    known = labels != UNKNOWN
    np.testing.assert_allclose(smoothed[known], expected[known], rtol=1e-5)


def test_auto_weights_are_negatives_per_positive_within_their_limits():
    auto = Loss(pos_weight="auto")
    np.testing.assert_allclose(pos_weights(auto, 5, FREQUENCIES), [1, 10, 7 / 3, 1, 1], rtol=1e-6)
    wide = pos_weights(Loss(pos_weight="auto", pos_weight_max=100), 3, (0.02, 0.98, 0.999))
    np.testing.assert_allclose(wide, [49, 1 / 49, 1 / 100], rtol=1e-6)
    assert wide.dtype == np.float32
    with pytest.raises(ValueError, match=r'pos_weight="auto" needs training labels'):
        pos_weights(auto, 5, None)


def test_given_weights_apply_to_each_class():
    assert pos_weights(Loss(pos_weight=2.5), 3, None).tolist() == [2.5, 2.5, 2.5]
    assert pos_weights(Loss(pos_weight=[1, 2.0]), 2, None).tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match=r"loss\.pos_weight has 2 numbers for 3 classes"):
        make_loss(Loss(pos_weight=[1.0, 2.0]), 3, None)


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_the_prior_bias_is_the_best_constant(weight):
    share = np.array([0.5, 0.02, 0.3])
    config = Loss(pos_weight=weight)
    bias = prior_bias(config, share)
    assert bias.dtype == np.float32
    rows = 1000
    labels = (np.arange(rows)[:, None] < share * rows).astype(np.float32)
    logits = np.broadcast_to(bias, labels.shape)
    losses, gradient = values_and_gradients(make_loss(config, 3, share), logits, labels)
    # The mean in float64 leaves the rounding of each gradient, of up to `weight`, and of the bias.
    near = 8 * EPS * weight
    np.testing.assert_allclose(gradient.mean(axis=0, dtype=np.float64), 0, atol=near)
    if weight == 1:
        entropy = -(share * np.log(share) + (1 - share) * np.log1p(-share))
        np.testing.assert_allclose(losses.mean(axis=0, dtype=np.float64), entropy, rtol=RTOL)


def test_a_class_without_positives_or_without_negatives_can_still_be_learned():
    bias = prior_bias(Loss(), (0.0, 1.0))
    np.testing.assert_allclose(bias, [-6.907, 6.907], atol=1e-3)


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        (Loss(), "bce"),
        (Loss(pos_weight=1), "bce"),
        (Loss(pos_weight=[1.0, 1.0]), "weighted bce"),
        (Loss(pos_weight="auto", label_smoothing=0.1), "smoothed weighted bce"),
        (Loss("asl", label_smoothing=0.1), "smoothed asl"),
        (Loss("focal"), "focal"),
    ],
)
def test_only_plain_bce_has_the_name_of_the_evaluation_loss(setting, name):
    assert describe_loss(setting) == name
