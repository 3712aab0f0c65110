"""Compares batch normalisation with Flax's, and checks what its backward pass stores."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mlcls_jax.models.batch_norm import BatchNorm, identity

SHAPE = (3, 5, 4, 6)


def arrays(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 6)
    normal = partial(jax.random.normal, dtype=jnp.float32)
    x = (normal(keys[0], SHAPE) * 2 + 3).astype(dtype)
    variables = {
        "params": {"scale": normal(keys[1], SHAPE[-1:]), "bias": normal(keys[2], SHAPE[-1:])},
        "batch_stats": {
            "mean": normal(keys[3], SHAPE[-1:]),
            "var": jnp.exp(normal(keys[4], SHAPE[-1:])),
        },
    }
    return x, variables, normal(keys[5], SHAPE)


@pytest.mark.parametrize("activation", [identity, nn.relu6, nn.silu])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_equals_flax_in_values_statistics_and_gradients(activation, train, dtype):
    ours = BatchNorm(activation, momentum=0.9, epsilon=1e-3, dtype=dtype)
    theirs = nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-3, dtype=jnp.float32
    )
    x, variables, weight = arrays(dtype)

    def ours_apply(variables, x):
        y, updated = ours.apply(variables, x, train, mutable=["batch_stats"])
        return y, updated["batch_stats"]

    def theirs_apply(variables, x):
        y, updated = theirs.apply(variables, x.astype(jnp.float32), mutable=["batch_stats"])
        return activation(y).astype(dtype), updated["batch_stats"]

    def loss(apply, params, x):
        y, _ = apply(variables | {"params": params}, x)
        return (y.astype(jnp.float32) * weight).sum()

    tolerance = 1e-5 if dtype == jnp.float32 else 1e-2
    results = []
    for apply in (ours_apply, theirs_apply):
        y, stats = apply(variables, x)
        assert y.dtype == dtype
        grads = jax.grad(partial(loss, apply), argnums=(0, 1))(variables["params"], x)
        results.append(jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), (y, stats, grads)))
    assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
    for mine, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance * 5)


def test_the_unbiased_running_variance():
    x, variables, _ = arrays()
    norm = BatchNorm(identity, momentum=0.9, epsilon=1e-3, unbiased=True)
    _, updated = norm.apply(variables, x, True, mutable=["batch_stats"])
    before = variables["batch_stats"]["var"]
    expected = 0.9 * before + 0.1 * np.var(np.asarray(x), axis=(0, 1, 2), ddof=1)
    np.testing.assert_allclose(updated["batch_stats"]["var"], expected, rtol=1e-5)


def test_the_backward_pass_stores_only_the_input():
    x, variables, _ = arrays()
    norm = BatchNorm(nn.silu, momentum=0.9, epsilon=1e-3)

    def loss(x):
        y, _ = norm.apply(variables, x, True, mutable=["batch_stats"])
        return y.sum()

    _, backward = jax.vjp(loss, x)
    stored = [leaf for leaf in jax.tree.leaves(backward) if np.shape(leaf) == SHAPE]
    assert len(stored) == 1
