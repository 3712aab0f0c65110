"""Orbax checkpoints of a run: the latest and the best by validation mAP.

Each holds three items: `model` (parameters and statistics, all that evaluation needs), `training`
(optimiser state and running totals) and `meta` (JSON: phase, config, classes, normalisation and
metrics), so that a checkpoint explains itself; and where a phase averages what it trains, a fourth,
`average`.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    BestN,
    LatestN,
)

from mlcls_jax.averages import NO_AVERAGE, Average, with_average
from mlcls_jax.optimizer import flatten, unflatten
from mlcls_jax.train_step import TrainState

FOLDER = "checkpoints"
_ITEMS = {
    "model": ("params", "batch_stats"),
    "training": ("step", "opt_state", "loss_sum", "label_count"),
}


def has_checkpoint(workdir: Path) -> bool:
    """Whether a whole checkpoint was ever saved there: before that, a workdir holds no training."""
    folder = Path(workdir) / FOLDER
    return folder.is_dir() and any(child.name.isdecimal() for child in folder.iterdir())


class Checkpoints:
    """The checkpoints of one workdir, by step."""

    def __init__(self, workdir: Path, read_only: bool = False):
        """Opens (and, unless read_only, creates) workdir/checkpoints.

        Raises:
            ValueError: read_only, and there is no checkpoint.
        """
        self._folder = (Path(workdir) / FOLDER).absolute()
        if read_only and not self._folder.is_dir():
            raise ValueError(f"{workdir} holds no checkpoint; train into it first")
        best = BestN(get_metric_fn=_map_of, n=1, keep_checkpoints_without_metrics=False)
        keep = AnyPreservationPolicy([LatestN(1), best])
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep, best_fn=_map_of, create=not read_only, read_only=read_only
        )
        # Slicing a replica for every device to fetch its part would compile a program per shape.
        whole = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
        ocp.type_handlers.register_type_handler(jax.Array, whole, override=True)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(
        self, step: int, state: TrainState, meta: dict[str, Any], val_map: float | None
    ) -> None:
        """Starts to write the state in the background; waits for the save before it, if need be.

        Args:
            step: of the state.
            state: of the end of the step; may be donated as soon as this returns.
            meta: JSON-ready.
            val_map: validation mAP of this state; None between evaluations, which never counts
                as best.
        """
        saves = {item: ocp.args.StandardSave(tree) for item, tree in _trees(state).items()}
        args = ocp.args.Composite(meta=ocp.args.JsonSave(meta), **saves)
        metrics = None if val_map is None else {"mAP": val_map}
        with self._explained():
            self._manager.save(step, args=args, metrics=metrics, force=True)

    def is_saving(self) -> bool:
        """Whether a save is still being written, for which the next one would wait."""
        return self._manager.is_saving_in_progress()

    def check(self) -> None:
        """Raises OSError if a save in the background has failed."""
        with self._explained():
            self._manager.check_for_errors()

    def latest(self) -> int | None:
        """The newest step, or None."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step with the highest validation mAP; the newest where none was evaluated."""
        best = self._manager.best_step()
        return self.latest() if best is None else best

    def resolve(self, which: str) -> int:
        """The step of "best", "latest" or a number; ValueError names the steps there are."""
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise ValueError(f"{self._folder} holds no checkpoint yet")
        step = {"best": self.best(), "latest": self.latest()}.get(which)
        if step is None:
            step = int(which) if which.isdecimal() else -1
        if step not in steps:
            there = ", ".join(map(str, steps))
            raise ValueError(
                f"checkpoint {which!r} is not in {self._folder}; there are best, latest and {there}"
            )
        return step

    def restore(self, step: int, state: TrainState) -> TrainState:
        """The saved state, with the structure, shapes and sharding of `state`."""
        restored = self._restore(step, _trees(state))
        average = _flat(restored["average"]) if state.average else NO_AVERAGE
        return TrainState(**restored["model"], **restored["training"], average=average)

    def restore_variables(self, step: int, variables: dict, average: Average = NO_AVERAGE) -> dict:
        """{params, batch_stats} only, with the structure, shapes and sharding of `variables`.

        Args:
            step: of the checkpoint.
            variables: or their shapes.
            average: of the shapes that the checkpoint has, to get it in place of the leaves that
                it is of; without it, the variables as they were trained.
        """
        trees = {"model": variables} | ({"average": _nested(average)} if average else {})
        restored = self._restore(step, trees)
        if not average:
            return restored["model"]
        return with_average(restored["model"], _flat(restored["average"]))

    def _restore(self, step: int, trees: dict[str, Any]) -> Any:
        """The items of a checkpoint, with the structure, shapes and sharding of these trees."""
        args = {item: ocp.args.StandardRestore(_abstract(tree)) for item, tree in trees.items()}
        return self._manager.restore(step, args=ocp.args.Composite(**args))

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON that was saved with the step."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["meta"]

    def wait(self) -> None:
        """Waits for a save that is being written; OSError if it failed."""
        with self._explained():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for a save that is being written; OSError if it failed."""
        with self._explained():
            self._manager.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """An error of the storage as one line; the checkpoints before it stay as they are."""
        try:
            yield
        except Exception as error:  # of the file system, TensorStore or Orbax
            reason = "no space left on device" if _is_full(error) else str(error)
            raise OSError(
                f"a checkpoint cannot be written to {self._folder} ({reason[:300]}); the earlier "
                "ones are kept. Mend that, and the same command continues from them"
            ) from error


def _is_full(error: BaseException) -> bool:
    return "No space left" in str(error) or "ENOSPC" in str(error)


def _map_of(metrics: dict[str, float]) -> float:
    value = metrics["mAP"]
    return -math.inf if math.isnan(value) else value


def _trees(state: TrainState) -> dict[str, Any]:
    """The items of a state, without meta."""
    trees: dict[str, Any] = {
        item: {name: getattr(state, name) for name in names} for item, names in _ITEMS.items()
    }
    return trees | ({"average": _nested(state.average)} if state.average else {})


def _nested(average: Average) -> dict[str, dict]:
    """As trees of modules: a path with slashes would be no name of a file."""
    trees = {"params": average.params, "batch_stats": average.batch_stats}
    return {name: unflatten(leaves) for name, leaves in trees.items()}


def _flat(trees: dict[str, dict]) -> Average:
    return Average(flatten(trees["params"]), flatten(trees["batch_stats"]))


def _abstract(tree):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree
    )
