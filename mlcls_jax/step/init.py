"""The variables that a run begins with: pretrained or drawn, on every device."""

from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from mlcls_jax.config import Config
from mlcls_jax.config.schema import image_size
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.weights.aliases import is_name
from mlcls_jax.models.weights.load import Pretrained, load_pretrained, merge, with_classes
from mlcls_jax.step.losses import prior_bias
from mlcls_jax.step.programs import build_model, head_input
from mlcls_jax.system.console import console
from mlcls_jax.system.devices import replicate, replicated


def random_variables(
    config: Config, frequencies: tuple[float, ...], mesh: jax.sharding.Mesh
) -> dict:
    """Variables drawn with config.seed, born on every device of the mesh.

    Args:
        config: of the run.
        frequencies: of its classes in train, from which the head's bias is; see model.head_bias.
        mesh: of all devices.
    """

    def draw() -> dict:
        image = jnp.zeros((1, image_size(config), image_size(config), 3))
        model = build_model(config, len(frequencies))
        return dict(model.init(jax.random.key(config.seed), image))

    variables = jax.jit(draw, out_shardings=replicated(mesh))()
    head = variables["params"]["head"] | replicate(_fresh_bias(config, frequencies), mesh)
    return variables | {"params": variables["params"] | {"head": head}}


def read_weights(
    config: Config, classes: tuple[str, ...], shapes: dict | None = None
) -> Pretrained:
    """The weights that config.model.weights says, with a head for `classes` if it has one.

    A head is there if a file has one of the same classes, or without names for them.

    Args:
        config: of the run.
        classes: of the run, in their order.
        shapes: of the network's variables; without them, it is traced for them.
    """
    known: Any = flatten_dict(shapes) if shapes else {}
    flat = {path: leaf.shape for path, leaf in known.items()}
    pretrained = load_pretrained(config.model.weights, config.model.variant, flat or None)
    pretrained = with_classes(pretrained, classes)
    if is_name(config.model.weights):
        # 1000 classes of one's own are not ImageNet's: without its head, a fresh one is kept.
        pretrained.variables["params"].pop("head", None)
    return pretrained


def initial_variables(
    config: Config,
    pretrained: Pretrained,
    frequencies: tuple[float, ...],
    shapes: dict,
    mesh: jax.sharding.Mesh,
) -> dict:
    """Pretrained variables on every device of the mesh, with a fresh head where theirs is another.

    Args:
        config: of the run.
        pretrained: from `read_weights`.
        frequencies: of the classes in train, from which a fresh head's bias is; see
            model.head_bias.
        shapes: of the network's variables.
        mesh: of all devices.
    """
    head = shapes["params"]["head"]
    model = build_model(config, head["bias"].shape[0])

    def draw() -> dict:  # the head alone: what merge replaces is never computed
        each, key = head_input(config, shapes), jax.random.key(config.seed)
        inputs = jnp.zeros((1, *each.shape), each.dtype)
        drawn: Any = model.init(key, inputs, method=EfficientNet.classify)
        return drawn["params"]["head"]

    fresh_head = jax.jit(draw)() | _fresh_bias(config, frequencies)
    target = shapes | {"params": shapes["params"] | {"head": fresh_head}}
    merged, fresh = merge(pretrained.variables, target)
    if len(fresh) > 2:  # of a decoder
        fresh = [f"head/* ({len(fresh)} arrays)"]
    fit = "classes" if pretrained.classes else "width; the file names no classes"
    console.print(
        f"Weights {config.model.weights} ({pretrained.variant}: {pretrained.pretrained_config}); "
        f"new: {', '.join(fresh) if fresh else f'nothing, the head fits by its {fit}'}"
    )
    return replicate(merged, mesh)


def _fresh_bias(config: Config, frequencies: tuple[float, ...]) -> dict:
    """{"bias": of a fresh head}, or nothing where the head's own zeros are to stay."""
    if config.model.head_bias == "zero":
        return {}
    return {"bias": prior_bias(config.loss, frequencies)}
