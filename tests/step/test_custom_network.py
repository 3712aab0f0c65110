"""A network of the user behind the interface of an EfficientNet."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlcls_jax.config.extensions import register
from mlcls_jax.step.custom_network import CustomNetwork, custom_network, presented
from mlcls_jax.step.param_tree import flatten

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)
ACTIVE = frozenset({"backbone", "backbone/norm"})


class Net(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5, name="norm")(x)
        x = nn.Dropout(0.5, deterministic=not train)(x.mean((1, 2)))
        return nn.Dense(self.num_classes, name="head", kernel_init=nn.initializers.ones)(x)


def make(num_classes: int) -> Net:
    return Net(num_classes)


def network(active=None) -> tuple[CustomNetwork, dict]:
    model = custom_network(register(make), 2, active)
    return model, model.init(jax.random.key(0), IMAGES[:1])


def test_parameters_are_a_backbone_and_a_head():
    _, variables = network()
    assert set(flatten(variables["params"])) == {
        *("backbone/norm/scale", "backbone/norm/bias"),
        *("head/kernel", "head/bias"),
    }
    assert set(flatten(variables["batch_stats"])) == {"backbone/norm/mean", "backbone/norm/var"}


def test_logits_are_those_of_the_module():
    model, variables = network()
    theirs = Net(2).init(jax.random.key(0), IMAGES[:1], train=False)
    assert jax.tree.structure(presented(theirs)) == jax.tree.structure(variables)
    expected = Net(2).apply(theirs, IMAGES, train=False)
    np.testing.assert_array_equal(model.apply(variables, IMAGES), expected)


@pytest.mark.parametrize("active", [None, ACTIVE])
def test_active_statistics_are_updated_in_training(active):
    model, variables = network(active)
    rngs = {"dropout": jax.random.key(1)}
    example = jnp.arange(4, dtype=jnp.uint32)
    logits, updated = model.apply(
        variables, IMAGES, train=True, example=example, rngs=rngs, mutable=["batch_stats"]
    )
    mean = updated["batch_stats"]["backbone"]["norm"]["mean"]
    np.testing.assert_allclose(mean, 0.5 * IMAGES.mean((0, 1, 2)), rtol=1e-5)
    other, _ = model.apply(
        variables, IMAGES, train=True, example=example + 4, rngs=rngs, mutable=["batch_stats"]
    )
    assert (logits != other).any()  # the dropout of other steps is another one


def test_inactive_statistics_stay_and_are_used():
    model, variables = network(frozenset({"head"}))
    logits, updated = model.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(logits, model.apply(variables, IMAGES))
    assert jax.tree.all(
        jax.tree.map(lambda a, b: (a == b).all(), updated["batch_stats"], variables["batch_stats"])
    )


class WithoutTrain(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


class WithoutPooling(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, train: bool):
        return nn.Dense(self.num_classes, name="head")(x)


def test_impossible_networks_are_refused():
    with pytest.raises(ValueError, match="must take the keyword train"):
        custom_network(register(WithoutTrain), 2).init(jax.random.key(0), IMAGES)
    model = custom_network(register(WithoutPooling), 2)
    variables = model.init(jax.random.key(0), IMAGES)
    with pytest.raises(ValueError, match=r"returns shape \[4, 8, 8, 2\]; it must return logits"):
        model.apply(variables, IMAGES)
    with pytest.raises(ValueError, match="returns int; it must return a Flax module"):
        custom_network(register(lambda num_classes: num_classes), 2)
    with pytest.raises(ValueError, match="has no features; only an EfficientNet does"):
        model.apply(variables, IMAGES, method="features")
