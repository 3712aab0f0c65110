"""The items of a checkpoint as trees of arrays, and how Orbax writes their arrays."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import orbax.checkpoint as ocp

from mlcls_jax.step.ema import EmaState
from mlcls_jax.step.param_tree import flatten, unflatten
from mlcls_jax.step.train_step import TrainState

_ITEMS = {
    "model": ("params", "batch_stats"),
    "training": ("step", "opt_state", "loss_sum", "label_count"),
}


def trees_of(state: TrainState) -> dict[str, Any]:
    """Returns the items of a state, without the metadata."""
    trees: dict[str, Any] = {
        item: {name: getattr(state, name) for name in names} for item, names in _ITEMS.items()
    }
    return trees | ({"ema": nested(state.ema)} if state.ema else {})


def nested(ema: EmaState) -> dict[str, dict]:
    """Returns moving averages as nested trees; a flat path with slashes cannot name a file."""
    trees = {"params": ema.params, "batch_stats": ema.batch_stats}
    return {name: unflatten(leaves) for name, leaves in trees.items()}


def ema_of(trees: dict[str, dict]) -> EmaState:
    """Returns the moving averages of nested trees; the inverse of `nested`."""
    return EmaState(flatten(trees["params"]), flatten(trees["batch_stats"]))


def abstract(tree: Any) -> Any:
    """Returns the shapes, dtypes and shardings of a tree of arrays."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree
    )


@contextmanager
def whole_arrays() -> Iterator[None]:
    """Lets Orbax write each array as a whole within the block; its registry is global.

    With parallel replicas, each device would slice its part: one compiled program per shape.
    """
    previous = ocp.type_handlers.get_type_handler(jax.Array)
    handler = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
    ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)
    try:
        yield
    finally:
        ocp.type_handlers.register_type_handler(jax.Array, previous, override=True)
