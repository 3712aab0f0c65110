"""Initial variables of a run, and the printed description of its network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import EPS

from mlcls_jax.config import Config, Loss, Model
from mlcls_jax.models.conventions import IMAGENET, KERAS
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.weights.load import Pretrained
from mlcls_jax.step.init import fresh_bias, initial_variables, random_variables
from mlcls_jax.step.losses import prior_bias
from mlcls_jax.step.network import (
    build_model,
    network_spec,
    variables_shape,
)
from mlcls_jax.step.param_tree import flatten
from mlcls_jax.system.devices import make_mesh

FREQUENCIES = (0.5, 0.02, 0.3, 0.0)


def make_config(variant: str, head_bias: str = "log_odds") -> Config:
    return Config(model=Model(variant, weights="", image_size=32, head_bias=head_bias))


def head(variables: dict) -> dict:
    return jax.device_get(variables["params"]["head"])


@functools.cache
def drawn(variant: str) -> dict:
    """Random variables on every device."""
    network = network_spec(make_config(variant).model, len(FREQUENCIES))
    bias = fresh_bias("log_odds", Loss(), FREQUENCIES)
    return random_variables(
        network, variables_shape(network, make_mesh()), make_mesh(), seed=0, bias=bias
    )


def initial(config: Config, pretrained: Pretrained, frequencies: tuple, shapes: dict, mesh) -> dict:
    return initial_variables(
        network_spec(config.model, len(frequencies)),
        pretrained,
        shapes,
        mesh,
        weights=config.model.weights,
        seed=config.seed,
        bias=fresh_bias(config.model.head_bias, config.loss, frequencies),
    )


def test_random_variables_predict_the_frequencies_on_every_device(tiny):
    bias = drawn(tiny)["params"]["head"]["bias"]
    assert bias.sharding.is_fully_replicated and len(bias.devices()) == jax.device_count()
    np.testing.assert_array_equal(bias, prior_bias(Loss(), FREQUENCIES))
    np.testing.assert_allclose(jax.nn.sigmoid(bias)[:3], FREQUENCIES[:3], rtol=1e-5)
    assert head(drawn(tiny))["kernel"].std() > 0


def test_random_variables_are_distributed_as_those_of_the_network(tiny):
    """They are not drawn by the network's own `init`, which takes long to compile."""
    config = make_config(tiny)
    network = network_spec(config.model, len(FREQUENCIES))
    expected = flatten(build_model(network).init(jax.random.key(1), np.zeros((1, 32, 32, 3))))
    found = flatten(jax.device_get(drawn(tiny)))
    assert set(found) == set(expected)
    for path, leaf in expected.items():
        if "kernel" not in path:
            if path != "params/head/bias":
                np.testing.assert_array_equal(found[path], leaf)
            continue
        assert found[path].shape == leaf.shape and found[path].dtype == leaf.dtype
        near = 6 / np.sqrt(2 * leaf.size)  # standard errors of a standard deviation
        np.testing.assert_allclose(found[path].std(), leaf.std(), rtol=2 * near)
        assert abs(found[path].mean()) < 6 * leaf.std() / np.sqrt(leaf.size)
    assert (drawn_again(tiny, 0) == drawn_again(tiny, 0)).all()
    assert (drawn_again(tiny, 0) != drawn_again(tiny, 1)).any()


def drawn_again(variant: str, seed: int) -> np.ndarray:
    """A kernel of new random variables."""
    network = network_spec(make_config(variant).model, len(FREQUENCIES))
    shapes = variables_shape(network, make_mesh())
    variables = random_variables(network, shapes, make_mesh(), seed=seed, bias={})
    return np.asarray(next(v for k, v in flatten(variables).items() if k.endswith("kernel")))


@pytest.mark.parametrize("head_bias", ["log_odds", "zero"])
@pytest.mark.parametrize("own_classes", [0, 3, 4], ids=["no head", "another head", "the head"])
def test_only_a_new_head_next_to_weights_predicts_the_frequencies(tiny, head_bias, own_classes):
    variables = jax.device_get(drawn(tiny))
    params = {"backbone": variables["params"]["backbone"]}
    kernel = np.ones((head(variables)["kernel"].shape[0], own_classes), np.float32)
    if own_classes:
        params["head"] = {"kernel": kernel, "bias": np.full(own_classes, 7, np.float32)}
    pretrained = Pretrained(
        EfficientNet(variant=tiny, num_classes=own_classes, convention=KERAS),
        variables | {"params": params},
        IMAGENET,
    )
    config, mesh = make_config(tiny, head_bias), make_mesh()
    shapes = jax.eval_shape(lambda: drawn(tiny))
    got = head(initial(config, pretrained, FREQUENCIES, shapes, mesh))
    if own_classes == 4:
        assert (got["bias"] == 7).all() and (got["kernel"] == kernel).all()
        return
    expected = prior_bias(config.loss, FREQUENCIES) if head_bias == "log_odds" else 0
    np.testing.assert_array_equal(got["bias"], expected)
    # Drawn by two programs: uniform numbers of both signs, whose rounding the largest ones set.
    drawn_before = head(variables)["kernel"]
    near = 32 * EPS * np.abs(drawn_before).max()
    np.testing.assert_allclose(got["kernel"], drawn_before, rtol=0, atol=near)


def test_a_decoder_is_drawn_in_place_of_a_dense_layer(tiny, capsys):
    head = {"head": "mldecoder", "decoder_groups": 2, "decoder_width": 16}
    config, mesh = Config(model=Model(tiny, "file.h5", image_size=64, **head)), make_mesh(1)
    gap = network_spec(Model(tiny, image_size=64), 3)
    shapes = variables_shape(network_spec(config.model, 3), mesh)
    of_file = jax.tree.map(lambda leaf: np.ones(leaf.shape), variables_shape(gap, mesh))
    pretrained = Pretrained(EfficientNet(variant=tiny, num_classes=3), of_file, IMAGENET)
    merged = initial(config, pretrained, FREQUENCIES[:3], shapes, mesh)
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    new = merged["params"].pop("head")
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(merged))
    assert new["kernel"].shape == (2, 16, 2) and 0.1 < jnp.std(new["kernel"]) < 0.5
    np.testing.assert_array_equal(new["bias"], prior_bias(config.loss, FREQUENCIES[:3]))
    assert "new: head/* (22 arrays)" in capsys.readouterr().out
