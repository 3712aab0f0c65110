"""Initial variables of a run: pretrained or random, on every device."""

import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from mlcls_jax.config import Loss
from mlcls_jax.models.blocks import kernel_deviation
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.weights.aliases import is_name
from mlcls_jax.models.weights.load import Pretrained, load_pretrained, merge, with_classes
from mlcls_jax.step.custom_network import presented
from mlcls_jax.step.losses import prior_bias
from mlcls_jax.step.network import NetworkSpec, build_efficientnet, build_model, head_input
from mlcls_jax.step.param_tree import flatten, unflatten
from mlcls_jax.system.console import console
from mlcls_jax.system.devices import replicate, replicated


def random_variables(
    network: NetworkSpec,
    shapes: dict,
    mesh: jax.sharding.Mesh,
    *,
    seed: int,
    bias: dict,
    given: Any = None,
) -> dict:
    """Returns random variables, created on every device of the mesh.

    Args:
        network: settings of the network.
        shapes: shapes of its variables.
        mesh: of all devices.
        seed: of the random numbers.
        bias: bias of the head, from `fresh_bias`; a custom network may have none.
        given: variables of a custom network, which replace random ones of the same path and shape.
    """
    if network.custom:
        variables = drawn_variables(network, seed, mesh)
        head = variables["params"]["head"]
        if all(name in head and head[name].shape == leaf.shape for name, leaf in bias.items()):
            head = head | replicate(bias, mesh)
    else:
        variables = replicate(_backbone(shapes, seed), mesh)
        head = replicate(fresh_head(network, shapes, seed, bias), mesh)
    variables |= {"params": variables["params"] | {"head": head}}
    return _with_given(variables, given, mesh) if given else variables


def drawn_variables(network: NetworkSpec, seed: int, mesh: jax.sharding.Mesh) -> dict:
    """Returns the random variables of a custom network's `init`, on every device of the mesh."""

    def draw() -> dict:
        image = jnp.zeros((1, *network.image_shape))
        return dict(build_model(network).init(jax.random.key(seed), image))

    return jax.jit(draw, out_shardings=replicated(mesh))()


def _backbone(shapes: dict, seed: int) -> dict:
    """Returns new variables of all but the head, drawn by NumPy.

    The same numbers from XLA need a program with one generator for each kernel, which takes longer
    to compile than a training step.
    """
    flat = {}
    for path, leaf in flatten(shapes).items():
        name = path.rpartition("/")[2]
        if path.startswith("params/head/"):
            continue
        if name == "kernel":
            random = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(path.encode())]))
            deviation = kernel_deviation(leaf.shape, "/depthwise/" in path)
            flat[path] = deviation * random.standard_normal(leaf.shape, np.float32)
        else:  # what a normalisation multiplies with and divides by is 1, all else 0
            flat[path] = np.full(leaf.shape, name in ("scale", "var"), np.float32)
    return unflatten(flat)


def _with_given(variables: dict, given: Any, mesh: jax.sharding.Mesh) -> dict:
    """Returns the variables with the given ones, and prints what stays random.

    Raises:
        ValueError: none of the given arrays has the path and shape of a variable.
    """
    flat, pretrained = flatten(variables), flatten(presented(given))
    taken = {
        path: leaf
        for path, leaf in pretrained.items()
        if path in flat and np.shape(flat[path]) == leaf.shape
    }
    if not taken:
        raise ValueError(
            f"variables: none fits the network; it has {', '.join(list(flat)[:5])}, and these are "
            f"{', '.join(list(pretrained)[:5]) or 'none'}; pass what its init returns"
        )
    rest = [path for path in flat if path not in taken]
    console.print(f"Weights given: {len(taken)} arrays; new: {', '.join(rest) or 'nothing'}")
    return {"batch_stats": {}} | unflatten(flat | replicate(taken, mesh))


def read_weights(
    weights: str, variant: str, classes: tuple[str, ...], shapes: dict | None = None
) -> Pretrained:
    """Returns pretrained weights, with their head if it predicts the same classes.

    The head is reused if its class names match in any order or, when the file names no classes,
    if it has as many outputs.

    Args:
        weights: the field model.weights: a name, or the path of a file.
        variant: name of the network.
        classes: class names of the run, in order.
        shapes: shapes of the network's variables; None traces the network.

    Raises:
        ValueError: the weights cannot be read, or belong to another network.
    """
    known: Any = flatten_dict(shapes) if shapes else {}
    flat = {path: leaf.shape for path, leaf in known.items()}
    pretrained = with_classes(load_pretrained(weights, variant, flat or None), classes)
    if is_name(weights) and pretrained.classes is None:
        # A data set with 1000 classes is not ImageNet: the published head must not be reused.
        pretrained.variables["params"].pop("head", None)
    return pretrained


def initial_variables(
    network: NetworkSpec,
    pretrained: Pretrained,
    shapes: dict,
    mesh: jax.sharding.Mesh,
    *,
    weights: str,
    seed: int,
    bias: dict,
) -> dict:
    """Returns pretrained variables on every device, with a new head unless theirs is reused.

    Args:
        network: settings of the network.
        pretrained: from `read_weights`.
        shapes: shapes of the network's variables.
        mesh: of all devices.
        weights: the field model.weights, for the printed line.
        seed: of the random numbers of a new head.
        bias: bias of a new head, from `fresh_bias`.
    """
    head = fresh_head(network, shapes, seed, bias)
    target = shapes | {"params": shapes["params"] | {"head": head}}
    merged, fresh = merge(pretrained.variables, target)
    if len(fresh) > 2:  # a decoder has many arrays
        fresh = [f"head/* ({len(fresh)} arrays)"]
    match = "classes" if pretrained.classes else "number of outputs (the file names no classes)"
    console.print(
        f"Weights {weights} ({pretrained.variant}: {pretrained.pretrained_config}); "
        f"new: {', '.join(fresh) if fresh else f'nothing, because the head has the same {match}'}"
    )
    return replicate(merged, mesh)


def fresh_head(network: NetworkSpec, shapes: dict, seed: int, bias: dict) -> dict:
    """Returns the parameters of a new head, without computing the rest of the network.

    Args:
        network: settings of the network.
        shapes: shapes of its variables.
        seed: of the random numbers.
        bias: bias of the head, from `fresh_bias`.
    """
    model = build_efficientnet(network)

    def draw() -> dict:
        one_image, key = head_input(network, shapes), jax.random.key(seed)
        inputs = jnp.zeros((1, *one_image.shape), one_image.dtype)
        drawn: Any = model.init(key, inputs, method=EfficientNet.classify)
        return drawn["params"]["head"]

    return jax.jit(draw)() | bias


def fresh_bias(head_bias: str, loss: Loss, frequencies: Sequence[float]) -> dict:
    """Returns {"bias": float32 [class]} for a new head, or {} for a bias of 0.

    Args:
        head_bias: the field model.head_bias, "log_odds" or "zero".
        loss: the section of the config.
        frequencies: float [class], share of positives per class in train.
    """
    return {} if head_bias == "zero" else {"bias": prior_bias(loss, frequencies)}
