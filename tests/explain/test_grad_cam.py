"""Maps against Grad-CAM by its definition (jax.grad), and against attention in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlcls_jax.data.images.transforms import Box, letterbox, seen_box
from mlcls_jax.explain.grad_cam import make_explain_step, overlay
from mlcls_jax.models.conventions import Normalization
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.ml_decoder import DecoderSize, query_of_class
from mlcls_jax.step.train_step import make_eval_step, normalize
from mlcls_jax.system.devices import make_mesh

SIDE, ROWS = 64, 8  # a feature map of 2 x 2; a row for each device
BY = Normalization((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))


IMAGES = np.random.default_rng(0).integers(0, 256, (ROWS, SIDE, SIDE, 3), dtype=np.uint8)
SMALL = DecoderSize(groups=2, width=64)  # classes 0 to 2, and 3 to 4
CHOSEN = np.array([[0, 4], [1, 1], [2, 0], [3, 2], [4, 3], [0, 1], [2, 4], [3, 0]], np.int32)


@pytest.fixture
def network(tiny):
    """Builds the network of five classes; the tests share its cached results."""

    def build(decoder=None, dtype="float32"):
        return EfficientNet(variant=tiny, num_classes=5, decoder=decoder, dtype=jnp.dtype(dtype))

    return build


@functools.cache
def variables_of(model):
    """Random weights, biases included."""
    if model.dtype != jnp.float32:
        return variables_of(model.copy(dtype=jnp.dtype("float32")))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
    variables["params"]["head"]["bias"] = jnp.arange(5, dtype=jnp.float32)
    return variables


@functools.cache
def step(model, devices=1):
    return make_explain_step(model, BY, make_mesh(devices))


@functools.cache
def explained(model, devices=1):
    """Logits and maps of IMAGES."""
    return jax.device_get(step(model, devices)(variables_of(model), IMAGES, CHOSEN))


@functools.cache
def feature_map(model):
    features = functools.partial(model.apply, method="features")
    return jax.jit(features)(variables_of(model), normalize(IMAGES, BY))


def test_maps_of_a_dense_head_are_grad_cam(network):
    model = network()
    variables, features = variables_of(model), feature_map(model)
    logits, maps = explained(model)

    def logit(features, label):  # of one image
        return model.apply(variables, features.mean((0, 1))[None], method="classify")[0, label]

    for k in range(CHOSEN.shape[1]):
        gradients = jax.jit(jax.vmap(jax.grad(logit)))(features, CHOSEN[:, k])
        weights = gradients.mean(axis=(1, 2))  # equation 1 of the paper, then 2
        expected = jax.nn.relu(jnp.einsum("phwc,pc->phw", features, weights))
        assert expected.max() > 0
        # Where the sum over channels all but cancels, the rounding of what it adds up is left.
        added = jnp.einsum("phwc,pc->phw", jnp.abs(features), jnp.abs(weights))
        near = 1e-5 * added.max()
        np.testing.assert_allclose(maps[:, k], expected, rtol=1e-4, atol=near)
    assert logits.dtype == maps.dtype == jnp.float32


def test_positions_sum_to_the_logit_if_none_is_cut_off(network):
    model = network()
    variables = jax.tree.map(jnp.copy, variables_of(model))
    head = variables["params"]["head"]
    head["kernel"] = jnp.abs(head["kernel"])  # the features are relu6's
    logits, maps = jax.device_get(step(model)(variables, IMAGES, CHOSEN))
    sums = maps.sum(axis=(2, 3)) + np.asarray(head["bias"])[CHOSEN]
    np.testing.assert_allclose(sums, np.take_along_axis(logits, CHOSEN, 1), rtol=1e-5)


def test_maps_of_a_decoder_are_the_attention_of_the_class_s_query(network):
    model = network(SMALL)
    variables, features = variables_of(model), feature_map(model)
    _, maps = explained(model)
    np.testing.assert_allclose(maps.sum(axis=(2, 3)), 1, rtol=1e-5)
    np.testing.assert_array_equal(maps[5, 0], maps[5, 1])  # 0 and 1 share a query
    assert not np.allclose(maps[0, 0], maps[0, 1], rtol=1e-3)
    np.testing.assert_array_equal(query_of_class(5, 2), [0, 0, 0, 1, 1])
    # The softmax again, by NumPy.
    head = variables["params"]["head"]
    places = np.maximum(_dense(features.reshape(ROWS, 4, -1), head["embed"]), 0)
    query = _queries(model, variables, features)
    projected = np.einsum("qd,dhe->qhe", query, head["attention"]["query"]["kernel"])
    key = np.einsum("bpd,dhe->bphe", places, head["attention"]["key"]["kernel"])
    scores = np.einsum("qhe,bphe->bhqp", projected, key) / np.sqrt(key.shape[-1])
    shares = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    expected = shares.mean(axis=1).reshape(ROWS, 2, 2, 2)
    for row, classes in enumerate(CHOSEN):
        for k, label in enumerate(classes):
            np.testing.assert_allclose(maps[row, k], expected[row, int(label > 2)], rtol=1e-4)


def _dense(x, layer):
    return np.asarray(x) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def _queries(model, variables, features):
    """Input of the attention for each query: float32 [query, width]."""
    _, sown = model.apply(
        variables, features, method="classify", capture_intermediates=True, mutable=True
    )
    return np.asarray(sown["intermediates"]["head"]["query_norm"]["__call__"][0][0])


@pytest.mark.parametrize("decoder", [None, SMALL])
def test_logits_are_those_of_the_evaluation(network, decoder):
    model = network(decoder)
    expected = make_eval_step(model, BY, make_mesh(1))(variables_of(model), IMAGES)
    np.testing.assert_allclose(explained(model)[0], expected, rtol=1e-5, atol=1e-5)


def test_two_devices_give_the_result_of_one(network):
    for one, two in zip(explained(network()), explained(network(), 2), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_maps_in_bfloat16_are_float32_and_close(network):
    with jax.numpy_dtype_promotion("strict"):
        rough = explained(network(dtype="bfloat16"))[1]
    maps = explained(network())[1]
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, maps, atol=0.1 * float(maps.max()))


def test_the_overlay_is_inside_the_box_and_strongest_at_the_top():
    image = np.full((40, 60, 3), 100, np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[1, 2] = 3
    drawn = overlay(image, heat, Box(top=4, left=10, height=32, width=40))
    changed = (drawn != image).any(axis=-1)
    outside = np.ones_like(changed)
    outside[4:36, 10:50] = False
    assert changed.any() and not (changed & outside).any()
    difference = np.abs(drawn.astype(int) - image).sum(axis=-1)
    row, column = np.unravel_index(difference.argmax(), difference.shape)
    assert (row - 4) // 8 == 1 and (column - 10) // 10 == 2
    assert (image == 100).all()


@pytest.mark.parametrize("shape", [(40, 80), (80, 40), (61, 80), (3, 4000)])
def test_the_overlay_of_a_letterbox_lies_where_the_network_saw_it(shape):
    """Of a white dot, the cell of the square that shows it is warm, and so the dot is."""
    height, width = shape
    size, place = 64, (height // 3, width // 4)
    image = np.zeros((*shape, 3), np.uint8)
    inner = letterbox(height, width, size)
    row = inner.top + int((place[0] + 0.5) * inner.height / height)
    column = inner.left + int((place[1] + 0.5) * inner.width / width)
    heat = np.zeros((size, size), np.float32)
    heat[row, column] = 1
    drawn = overlay(image, heat, seen_box(height, width, size, "letterbox"))
    assert drawn.shape == image.shape
    warm = drawn.astype(int).sum(axis=-1)
    found = np.argwhere(warm > 0.9 * warm.max()).mean(axis=0)
    cell = max(shape) / size
    assert np.abs(found - place).max() <= cell


def test_the_overlay_of_a_long_image_takes_little_memory():
    image = np.zeros((20, 60_000, 3), np.uint8)
    drawn = overlay(image, np.ones((7, 7), np.float32), seen_box(20, 60_000, 224, "letterbox"))
    assert drawn.any(axis=-1).all()


def test_a_map_of_zeros_leaves_the_image():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    drawn = overlay(image, np.zeros((2, 2), np.float32), Box(0, 0, 20, 30))
    np.testing.assert_array_equal(drawn, image)
