"""A network of the user, behind the interface that the steps expect of an EfficientNet.

Its parameters are presented as {"backbone": ..., "head": ...}, so that the groups of the default
phases freeze and train them like those of an EfficientNet.
"""

import dataclasses
import inspect
from dataclasses import dataclass
from typing import Any, Protocol

import jax
from flax.core import meta
from jaxtyping import Array, Float, UInt32

from mlcls_jax.config.extensions import resolve
from mlcls_jax.step.param_tree import flatten

HEAD, BACKBONE = "head", "backbone"
FIELD = "model.custom"


class Network(Protocol):
    """A Flax module, or anything with its `init` and `apply`, that classifies images.

    A call takes normalised images, float32 [image, size, size, channel], and the keyword `train`,
    and returns logits [image, class].  One of the top-level parameters is named "head".
    """

    def init(self, rngs: dict[str, jax.Array], images: jax.Array, *, train: bool) -> Any:
        """Returns {"params": ...}, and "batch_stats" if it normalises by batches."""
        ...

    def apply(self, variables: Any, images: jax.Array, *, train: bool, **options: Any) -> Any:
        """Returns the logits; with `mutable`, also the changed collections."""
        ...


@dataclass(frozen=True)
class CustomNetwork:
    """A network of the user.

    In training, its dropout draws from the rng "dropout".  If it has batch statistics, it behaves
    as in training only in phases with batch_norm="train".

    Attributes:
        module: the user's.
        name: the field model.custom, for messages.
        active: paths of the modules that behave as in training; None means all.
    """

    module: Network
    name: str
    active: frozenset[str] | None = None
    decoder: None = None  # as of an EfficientNet without ML-Decoder

    def init(self, key: jax.Array, images: Float[Array, "image size size channel"]) -> dict:
        """Returns {params, batch_stats}.

        Raises:
            ValueError: there is no parameter named head, or a call does not take `train`.
        """
        try:
            rngs = {"params": key, "dropout": jax.random.fold_in(key, 1)}
            variables = self.module.init(rngs, images, train=False)
        except TypeError as error:
            if "train" not in str(error):
                raise
            raise ValueError(
                f"config: {FIELD}={self.name}: its calls must take the keyword train ({error})"
            ) from error
        variables = presented(meta.unbox(variables))
        if HEAD not in variables["params"]:
            names = ", ".join(sorted(variables["params"][BACKBONE]))
            raise ValueError(
                f"config: {FIELD}={self.name}: none of its parameters is named head, only {names}; "
                "name its last layer head"
            )
        return variables

    def apply(
        self,
        variables: Any,
        images: Float[Array, "image size size channel"],
        *,
        train: bool = False,
        example: UInt32[Array, " image"] | None = None,
        rngs: dict[str, jax.Array] | None = None,
        mutable: Any = False,
        method: Any = None,
    ) -> Any:
        """Returns logits float32 [image, class], and with `mutable` the changed statistics.

        Args:
            variables: {params, batch_stats}.
            images: normalised.
            train: whether the active modules behave as in training.
            example: a number for each row; the first of them and the rng decide the dropout.
            rngs: keys by name.
            mutable: collections to return as well.
            method: must be None, because only the whole network can be called.

        Raises:
            ValueError: a method, or logits of another shape than [image, class].
        """
        if method is not None:
            raise ValueError(f"{FIELD}={self.name} has no {method}; only an EfficientNet does")
        theirs = {name: _theirs(tree) for name, tree in variables.items() if tree}
        if rngs and example is not None:
            rngs = {name: jax.random.fold_in(key, example[0]) for name, key in rngs.items()}
        if theirs.get("batch_stats"):
            train = train and self._normalises(variables["batch_stats"])
        result = self.module.apply(theirs, images, train=train, rngs=rngs, mutable=mutable)
        logits, updated = result if mutable else (result, {})
        if logits.ndim != 2:
            raise ValueError(
                f"config: {FIELD}={self.name}: it returns shape {list(logits.shape)}; it must "
                "return logits [image, class]"
            )
        logits = logits.astype("float32")
        if not mutable:
            return logits
        return logits, {name: _ours(updated.get(name, {})) for name in mutable}

    def clone(self, active: frozenset[str] | None) -> "CustomNetwork":
        """Returns the same network with other active modules."""
        return dataclasses.replace(self, active=active)

    def _normalises(self, batch_stats: dict) -> bool:
        """Returns whether a module with statistics is active."""
        modules = {path.rsplit("/", 1)[0] for path in flatten(batch_stats)}
        return self.active is None or bool(modules & self.active)


def custom_network(
    name: str, num_classes: int, active: frozenset[str] | None = None
) -> CustomNetwork:
    """Returns the network that the field model.custom names.

    Args:
        name: the field.
        num_classes: outputs of the head.
        active: paths of the modules that behave as in training; None means all.

    Raises:
        ValueError: the name cannot be imported, or what it names does not return a network.
    """
    named = resolve(name, FIELD)
    module = named if _is_module(named) else named(num_classes=num_classes)
    if not _is_module(module):
        raise ValueError(
            f"config: {FIELD}={name} returns {type(module).__name__}; it must return a Flax module"
        )
    return CustomNetwork(module, name, active)


def _is_module(value: Any) -> bool:
    return hasattr(value, "init") and hasattr(value, "apply") and not inspect.isclass(value)


def presented(variables: Any) -> dict:
    """Returns {params, batch_stats} of a module, each as {"backbone": ..., "head": ...}."""
    return {name: _ours(variables.get(name, {})) for name in ("params", "batch_stats")}


def _ours(tree: Any) -> dict:
    rest = {name: child for name, child in dict(tree).items() if name != HEAD}
    return ({BACKBONE: rest} if rest else {}) | ({HEAD: tree[HEAD]} if HEAD in tree else {})


def _theirs(tree: Any) -> dict:
    return tree.get(BACKBONE, {}) | ({HEAD: tree[HEAD]} if HEAD in tree else {})
