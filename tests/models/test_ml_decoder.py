"""Compares the ML-Decoder with timm's, and checks that the noise of a row is its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from live_decoder import (
    ATTENTION_SCALES,
    DRAWS,
    KERNEL_CLASSES,
    MAP,
    NOISE_CLASSES,
    SIZES,
    WIDTH,
    parameters,
)
from stored_values import stored

from mlcls_jax.config import Config, Model
from mlcls_jax.models.conventions import KERAS, TIMM
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.ml_decoder import DecoderSize, MLDecoder, fixed_queries
from mlcls_jax.models.variants import TOP_CHANNELS, VARIANTS, end_channels, query_count
from mlcls_jax.step.network import build_model, head_input, network_spec
from mlcls_jax.step.param_tree import flatten, unflatten

ROWS = jnp.array([7, 8, 7, 9], jnp.uint32)


@functools.cache
def decoder(classes: int, groups: int = 0, **fields):
    model = MLDecoder(classes, DecoderSize(groups, WIDTH), **fields)
    return model, jax.jit(model.init)(jax.random.key(0), MAP)["params"]


@functools.partial(jax.jit, static_argnums=0)
def plain_logits(model, params, x):
    return model.apply({"params": params}, x)


@functools.partial(jax.jit, static_argnums=0)
def trained_logits(model, params, x, example):
    rngs = {"dropout": jax.random.key(5)}
    return model.apply({"params": params}, x, True, example, rngs=rngs)


@pytest.mark.parametrize(("classes", "groups"), SIZES)
def test_logits_are_those_of_timm(classes, groups):
    """Some groups are uneven, and in some cases timm has queries without a class."""
    model, initial = decoder(classes, groups)
    params = unflatten(parameters(classes, groups))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, initial)
    logits = plain_logits(model, params, MAP)
    assert logits.dtype == jnp.float32
    expected = stored("decoder")[f"logits {classes} {groups}"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=2e-5)


def test_initial_kernels_are_drawn_as_timm_draws_them():
    _, params = decoder(KERNEL_CLASSES)
    ours = flatten(params)
    kernels = [path for path in ours if path.endswith("kernel")]
    assert {f"initial {path}" for path in kernels} == {
        name for name in stored("decoder") if name.startswith("initial ")
    }
    for path in kernels:
        drawn = np.asarray(ours[path])
        spread, largest = stored("decoder")[f"initial {path}"]
        assert np.std(drawn) == pytest.approx(spread, rel=0.06), path
        if path != "kernel":  # uniform, with the same bound
            assert np.abs(drawn).max() == pytest.approx(largest, rel=0.06), path
    assert all(not leaf.any() for path, leaf in ours.items() if path.endswith("bias"))


def test_queries_never_change():
    queries = fixed_queries(80, 768)
    np.testing.assert_allclose(queries[0, :3], [1.764052, 0.400157, 0.978738], rtol=1e-6)
    assert queries.dtype == np.float32
    np.testing.assert_array_equal(fixed_queries(20, 768), queries[:20])


def test_dropout_of_a_row_depends_only_on_its_number():
    model, params = decoder(6)
    same = np.broadcast_to(MAP[:1], MAP.shape)
    logits = trained_logits(model, params, same, ROWS)
    swapped = trained_logits(model, params, same, jnp.array([9, 7, 8, 5], jnp.uint32))
    np.testing.assert_allclose(logits[0], logits[2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits[3], swapped[0], rtol=1e-5, atol=1e-6)
    assert np.abs(logits[0] - logits[1]).max() > 1e-2
    off = trained_logits(model.clone(dropout=0.0), params, same, None)  # needs no numbers
    np.testing.assert_allclose(off, plain_logits(model, params, same), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="need `example`"):
        trained_logits(model, params, same, None)


@pytest.mark.parametrize("attention", ATTENTION_SCALES)
def test_the_noise_of_dropout_is_that_of_timm(attention):
    """Checks all five dropouts: without that of attention, logits would spread 11 % less at 3."""
    model, _ = decoder(NOISE_CLASSES)
    params = unflatten(parameters(NOISE_CLASSES, attention=attention, biases=0.0))
    x = np.broadcast_to(MAP[:1], (DRAWS, *MAP.shape[1:]))
    noisy = trained_logits(model, params, x, jnp.arange(DRAWS, dtype=jnp.uint32))
    mean, spread = stored("decoder")[f"noise {attention}"]
    error = spread / np.sqrt(DRAWS)
    assert np.abs(np.mean(noisy, axis=0) - mean).max() < 5 * error.max()
    assert np.std(noisy, axis=0).mean() == pytest.approx(spread.mean(), rel=0.05)


def test_bfloat16_is_the_compute_dtype_and_logits_are_float32():
    model, params = decoder(6)
    half = model.clone(dtype=jnp.bfloat16)
    logits = plain_logits(half, params, jnp.asarray(MAP, jnp.bfloat16))
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, plain_logits(model, params, MAP), atol=0.1)
    shapes = jax.eval_shape(half.init, jax.random.key(0), MAP)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


# Trained parameters with 80 classes and the published width, by channels of the feature map.  The
# first number is timm's (tested below); each further channel adds 768 weights of the embedding.
PARAMETERS = {channels: 6_560_848 + 768 * (channels - 1280) for channels in range(1280, 2561, 128)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_count(variant):
    channels = end_channels(TOP_CHANNELS, VARIANTS[variant])
    model = MLDecoder(80, DecoderSize(0, 768))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2, 2, channels)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == PARAMETERS[channels]
    assert shapes["params"]["bias"].shape == (80,)


def test_the_parameter_count_is_that_of_timm():
    assert stored("decoder")["parameters"] == PARAMETERS[1280]


@pytest.mark.parametrize(
    ("head", "size", "dtype", "convention"),
    [
        ("gap", 65, "bfloat16", KERAS),
        ("mldecoder", 32, "float32", KERAS),
        ("mldecoder", 65, "bfloat16", KERAS),
        ("mldecoder", 65, "float32", TIMM),
    ],
)
def test_head_input_is_that_of_the_traced_network(tiny, head, size, dtype, convention):
    config = Config(model=Model(tiny, image_size=size, head=head, compute_dtype=dtype))
    model = build_model(network_spec(config.model, 3), convention)
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    inputs = jax.eval_shape(
        lambda v, x: model.apply(v, x, method=EfficientNet.head_inputs), variables, image
    )
    expected = head_input(network_spec(config.model, 3), variables)
    assert (inputs.shape, inputs.dtype) == ((2, *expected.shape), expected.dtype)


@pytest.mark.parametrize(
    ("classes", "groups", "queries"),
    [(80, 0, 80), (80, 100, 80), (80, 20, 20), (80, 25, 20), (81, 80, 41), (7, 1, 1), (1, 0, 1)],
)
def test_every_query_has_a_class(classes, groups, queries):
    assert query_count(classes, groups) == queries
