"""Compares the ML-Decoder with timm's, and checks that the noise of a row is its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlcls_jax.config import Config, Model
from mlcls_jax.models.conventions import KERAS, TIMM
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.ml_decoder import DecoderSize, MLDecoder, fixed_queries, query_count
from mlcls_jax.models.variants import TOP_CHANNELS, VARIANTS, end_channels
from mlcls_jax.step.network import build_model, head_input, network_spec
from mlcls_jax.step.param_tree import flatten

CHANNELS, WIDTH = 24, 64
MAP = np.random.default_rng(0).standard_normal((4, 5, 3, CHANNELS)).astype(np.float32)
ROWS = jnp.array([7, 8, 7, 9], jnp.uint32)


@pytest.fixture(scope="module")
def timm_decoder():
    import reference_torch

    reference_torch.import_torchvision()
    from timm.layers.ml_decoder import MLDecoder

    return MLDecoder


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


def to_torch(params, reference) -> None:
    """Copies our leaves into timm's module; its queries without a class keep their values."""
    import torch

    ours = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    kernels = {p: leaf.reshape(-1, WIDTH) for p, leaf in ours.items() if p.startswith("attention/")}
    parts = ("query", "key", "value")
    layer = "decoder.layers.0"
    state = {
        "embed_standart.weight": ours["embed/kernel"].T,
        "embed_standart.bias": ours["embed/bias"],
        f"{layer}.multihead_attn.in_proj_weight": np.concatenate(
            [kernels[f"attention/{part}/kernel"].T for part in parts]
        ),
        f"{layer}.multihead_attn.in_proj_bias": np.concatenate(
            [ours[f"attention/{part}/bias"].ravel() for part in parts]
        ),
        f"{layer}.multihead_attn.out_proj.weight": kernels["attention/out/kernel"].T,
        f"{layer}.multihead_attn.out_proj.bias": ours["attention/out/bias"],
        f"{layer}.linear1.weight": ours["expand/kernel"].T,
        f"{layer}.linear1.bias": ours["expand/bias"],
        f"{layer}.linear2.weight": ours["project/kernel"].T,
        f"{layer}.linear2.bias": ours["project/bias"],
        "duplicate_pooling_bias": ours["bias"],
    }
    for number, name in enumerate(("query_norm", "attention_norm", "output_norm"), start=1):
        state[f"{layer}.norm{number}.weight"] = ours[f"{name}/scale"]
        state[f"{layer}.norm{number}.bias"] = ours[f"{name}/bias"]
    count = len(ours["kernel"])
    queries = reference.query_embed.weight.detach().numpy().copy()
    pooling = reference.duplicate_pooling.detach().numpy().copy()
    queries[:count], pooling[:count] = fixed_queries(count, WIDTH), ours["kernel"]
    state |= {"query_embed.weight": queries, "duplicate_pooling": pooling}
    reference.load_state_dict(
        {name: torch.from_numpy(value.copy()) for name, value in state.items()}
    )
    # Replaced by its only layer, because newer versions of torch expect a self-attention there.
    reference.decoder = reference.decoder.layers[0]


@pytest.mark.parametrize(
    ("classes", "groups", "queries"),
    [(11, 0, 11), (11, 4, 4), (80, 25, 20), (5, 9, 5)],
)
def test_logits_are_those_of_timm(timm_decoder, classes, groups, queries):
    """Some groups are uneven, and in some cases timm has queries without a class."""
    import torch

    model, params = decoder(classes, groups)
    assert len(params["kernel"]) == query_count(classes, groups) == queries
    rng = np.random.default_rng(1)  # also for biases, which start at 0
    params = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32), params)
    reference = timm_decoder(classes, groups or -1, WIDTH, CHANNELS).eval()
    to_torch(params, reference)
    with torch.no_grad():
        expected = reference(torch.from_numpy(MAP.transpose(0, 3, 1, 2).copy())).numpy()
    logits = plain_logits(model, params, MAP)
    assert logits.dtype == jnp.float32 and logits.shape == (4, classes)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=2e-5)


def test_initial_kernels_are_drawn_as_timm_draws_them(timm_decoder):
    import torch

    torch.manual_seed(0)
    _, params = decoder(40)
    ours, reference = flatten(params), timm_decoder(40, -1, WIDTH, CHANNELS)
    layer = reference.decoder.layers[0]
    pairs = {
        "embed/kernel": reference.embed_standart.weight,
        "attention/query/kernel": layer.multihead_attn.in_proj_weight[:WIDTH],
        "attention/key/kernel": layer.multihead_attn.in_proj_weight[WIDTH : 2 * WIDTH],
        "attention/value/kernel": layer.multihead_attn.in_proj_weight[2 * WIDTH :],
        "attention/out/kernel": layer.multihead_attn.out_proj.weight,
        "expand/kernel": layer.linear1.weight,
        "project/kernel": layer.linear2.weight,
        "kernel": reference.duplicate_pooling,
    }
    assert set(pairs) == {path for path in ours if path.endswith("kernel")}
    for path, theirs in pairs.items():
        drawn, expected = np.asarray(ours[path]), theirs.detach().numpy()
        assert drawn.size == expected.size
        assert np.std(drawn) == pytest.approx(np.std(expected), rel=0.06), path
        if path != "kernel":  # uniform, with the same bound
            assert np.abs(drawn).max() == pytest.approx(np.abs(expected).max(), rel=0.06), path
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


@pytest.mark.parametrize("attention", [1, 3])
def test_the_noise_of_dropout_is_that_of_timm(timm_decoder, attention):
    """Checks all five dropouts: without one, the logits would spread 7 % less in one case.

    The initial kernels of the attention are so small that its dropout has little effect.
    """
    import torch

    torch.manual_seed(0)
    draws = 1024
    model, params = decoder(6)
    larger = jax.tree.map(lambda leaf: attention * leaf, params["attention"])
    params = params | {"attention": larger}
    x = np.broadcast_to(MAP[:1], (draws, *MAP.shape[1:]))
    noisy = trained_logits(model, params, x, jnp.arange(draws, dtype=jnp.uint32))
    reference = timm_decoder(6, -1, WIDTH, CHANNELS).train()
    to_torch(params, reference)
    with torch.no_grad():
        expected = reference(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    error = np.std(expected, axis=0) / np.sqrt(draws)
    assert np.abs(np.mean(noisy, axis=0) - np.mean(expected, axis=0)).max() < 5 * error.max()
    assert np.std(noisy, axis=0).mean() == pytest.approx(np.std(expected, axis=0).mean(), rel=0.05)


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


def test_the_parameter_count_is_that_of_timm(timm_decoder):
    reference = timm_decoder(80, -1, 768, 1280)
    trained = [leaf for leaf in reference.parameters() if leaf.requires_grad]
    assert sum(leaf.numel() for leaf in trained) == PARAMETERS[1280]
    assert not reference.query_embed.weight.requires_grad


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
