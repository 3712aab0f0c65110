"""The network of a run: its resolved settings, the Flax module and the shapes of its variables."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from mlcls_jax.config import Model
from mlcls_jax.config.schema import image_size
from mlcls_jax.models.conventions import KERAS, Convention
from mlcls_jax.models.efficientnet import EfficientNet
from mlcls_jax.models.ml_decoder import DecoderSize
from mlcls_jax.models.variants import STRIDE
from mlcls_jax.step.custom_network import CustomNetwork, custom_network
from mlcls_jax.system.devices import AXIS, compute_dtype, replicated


@dataclass(frozen=True)
class NetworkSpec:
    """Settings of a network with every default resolved.

    Attributes:
        variant: name of the EfficientNet, such as "b0".
        num_classes: outputs of the head; 0 for the network without its head.
        image_size: side of the square input in pixels.
        in_channels: channels of the input.
        compute_dtype: dtype of activations and matrix products, such as float32.
        decoder: size of the ML-Decoder head; None for global average pooling and a dense layer.
        dropout: rate before the head; None for the published one.
        drop_path: rate that the last blocks come close to; None for the published one.
        remat: whether blocks are computed again in the backward pass, to save memory.
        sync_batch_norm: whether batch statistics are computed over all devices.
        custom: the field model.custom; "" for an EfficientNet.
    """

    variant: str
    num_classes: int
    image_size: int
    compute_dtype: Any
    decoder: DecoderSize | None
    dropout: float | None
    drop_path: float | None
    remat: bool
    sync_batch_norm: bool
    custom: str = ""
    in_channels: int = 3

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of an input image."""
        return self.image_size, self.image_size, self.in_channels


def network_spec(model: Model, num_classes: int) -> NetworkSpec:
    """Returns the settings of a network, with every default resolved for the present devices.

    Args:
        model: the section of the config.
        num_classes: outputs of the head; 0 for the network without its head.
    """
    decoder = None
    if model.head != "gap":
        decoder = DecoderSize(groups=model.decoder_groups, width=model.decoder_width)
    return NetworkSpec(
        variant=model.variant,
        num_classes=num_classes,
        image_size=image_size(model),
        compute_dtype=compute_dtype(model.compute_dtype),
        decoder=decoder,
        dropout=model.dropout,
        drop_path=model.drop_path,
        remat=model.remat,
        sync_batch_norm=model.sync_batch_norm,
        custom=model.custom,
        in_channels=model.in_channels,
    )


def build_model(
    network: NetworkSpec,
    convention: Convention = KERAS,
    active: frozenset[str] | None = None,
) -> EfficientNet | CustomNetwork:
    """Returns the Flax module of a network.

    The shapes of its variables do not depend on the convention.

    Args:
        network: settings of the network.
        convention: padding, epsilon and momentum that the weights were trained with.
        active: paths of the modules that behave as in training; None means all.

    Raises:
        ValueError: see `custom_network`.
    """
    if network.custom:
        return custom_network(network.custom, network.num_classes, active)
    return build_efficientnet(network, convention, active)


def build_efficientnet(
    network: NetworkSpec,
    convention: Convention = KERAS,
    active: frozenset[str] | None = None,
) -> EfficientNet:
    """Returns the Flax module of a network that is not the user's own; see `build_model`."""
    return EfficientNet(
        variant=network.variant,
        num_classes=network.num_classes,
        decoder=network.decoder,
        convention=convention,
        dropout=network.dropout,
        drop_path=network.drop_path,
        dtype=network.compute_dtype,
        remat=network.remat,
        statistics_axis=AXIS if network.sync_batch_norm else None,
        active=active,
    )


def variables_shape(network: NetworkSpec, mesh: Mesh) -> dict:
    """Returns the shapes of {params, batch_stats}, replicated over the mesh, without arrays."""
    model, images = build_model(network), jnp.zeros((1, *network.image_shape))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return with_sharding(dict(shapes), replicated(mesh))


def head_input(network: NetworkSpec, variables: dict) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of the head's input for one image, without tracing the network.

    Args:
        network: settings of the network.
        variables: variables of the network, or their shapes.
    """
    channels = variables["params"]["backbone"]["top"]["conv"]["kernel"].shape[-1]
    if network.decoder is None:
        return jax.ShapeDtypeStruct((channels,), jnp.float32)
    side = -(-network.image_size // STRIDE)
    return jax.ShapeDtypeStruct((side, side, channels), network.compute_dtype)


def with_sharding(tree: Any, sharding: NamedSharding) -> Any:
    """Returns a tree of shapes with a sharding on every leaf."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )
