"""The loss equals its formula, and an unknown label neither costs nor teaches anything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlcls_jax.data.labels import UNKNOWN
from mlcls_jax.losses import known_sum, sigmoid_bce


@pytest.fixture(autouse=True)
def strict_dtypes():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def batch(seed=0, shape=(7, 5), scale=4.0):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.standard_normal(shape)).astype(np.float32)
    labels = rng.choice(np.array([0, 1, UNKNOWN], np.float32), size=shape)
    return logits, labels


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
    np.testing.assert_allclose(losses, formula(logits, labels), rtol=2e-6, atol=1e-7)


def test_the_gradient_is_probability_minus_label():
    logits, labels = batch(1)
    gradient = np.asarray(jax.grad(total)(jnp.asarray(logits), jnp.asarray(labels)))
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = np.where(labels == UNKNOWN, 0, probability - labels)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
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
    np.testing.assert_allclose(loss, formula(logits, labels)[known].sum(), rtol=1e-6)


def test_the_logit_at_an_unknown_label_does_not_matter():
    logits, labels = batch(3)
    other = np.where(labels == UNKNOWN, np.float32(-90), logits)
    labels = jnp.asarray(labels)
    assert total(jnp.asarray(logits), labels) == total(jnp.asarray(other), labels)


def test_nothing_known_is_no_loss_no_count_and_no_gradient():
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
    np.testing.assert_allclose(loss, 100.0 if wrong else 0.0, atol=1e-30)
    np.testing.assert_allclose(gradient[0, 0], np.sign(logit) if wrong else 0.0, atol=1e-30)


def test_parts_of_a_batch_merge_to_the_whole():
    logits, labels = map(jnp.asarray, batch(5, (12, 3)))
    losses = sigmoid_bce(logits, labels)
    whole = known_sum(losses, labels)
    parts = [known_sum(losses[rows], labels[rows]) for rows in (slice(0, 1), slice(1, 12))]
    merged = [sum(float(part[i]) for part in parts) for i in range(2)]
    np.testing.assert_allclose(merged, [float(x) for x in whole], rtol=1e-6)
