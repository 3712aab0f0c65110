"""Orbax checkpoints of a run: the two latest and the best by validation mAP.

Each holds three items: `model` (parameters and statistics, all that evaluation needs), `training`
(optimiser state and running totals) and `metadata` (JSON: phase, config, classes, normalisation and
metrics), so that a checkpoint explains itself; and where a phase averages what it trains, a fourth,
`ema`.
"""

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    BestN,
    LatestN,
)

from mlcls_jax import __version__
from mlcls_jax.run.checkpoint_integrity import (
    FORMAT,
    METADATA,
    SCORE,
    add_checksums,
    damage_of,
    one_line,
    others_of,
    read_metadata,
    remove_partial,
    set_damaged_aside,
    steps_in_folder,
)
from mlcls_jax.step.ema import NO_EMA, EmaState, with_ema
from mlcls_jax.step.param_tree import flatten, unflatten
from mlcls_jax.step.train_step import TrainState
from mlcls_jax.system.console import print_warning
from mlcls_jax.system.devices import is_first_process

FOLDER = "checkpoints"
_ITEMS = {
    "model": ("params", "batch_stats"),
    "training": ("step", "opt_state", "loss_sum", "label_count"),
}


def has_checkpoint(workdir: Path) -> bool:
    """Whether a whole checkpoint was ever saved there: before that, a workdir holds no training."""
    return bool(saved_steps(workdir))


def saved_steps(workdir: Path) -> list[int]:
    """The steps of its whole checkpoints, the oldest first."""
    folder = Path(workdir) / FOLDER
    names = [child.name for child in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


class Checkpoints:
    """The checkpoints of one workdir, by step."""

    def __init__(self, workdir: Path, read_only: bool = False):
        """Opens (and, unless read_only, creates) workdir/checkpoints.

        Unless read_only, the newest checkpoint is a whole one: damaged ones are moved aside, which
        is told.

        Raises:
            ValueError: read_only, and there is no checkpoint; or none is whole.
        """
        self._folder = (Path(workdir) / FOLDER).absolute()
        if read_only and not self._folder.is_dir():
            raise ValueError(f"{workdir} holds no checkpoint; train into it first")
        self._whole: int | None = None  # a step that was found to be so
        self._unranked: dict[int, str] = {}  # steps whose score cannot be read, and why
        if read_only:
            found = {step: self._wrong(step, [SCORE]) for step in steps_in_folder(self._folder)}
            self._unranked = {step: wrong for step, wrong in found.items() if wrong}
        elif is_first_process():  # the others wait in the manager's __init__
            remove_partial(self._folder)
            self._whole = set_damaged_aside(self._folder)
        best = BestN(get_metric_fn=_map_of, n=1, keep_checkpoints_without_metrics=False)
        # Two, so that there is another one when the storage has damaged the newest.
        keep = AnyPreservationPolicy([LatestN(2), best])
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep,
            best_fn=_map_of,
            create=not read_only,
            read_only=read_only,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._add_checksums),
        )
        # Slicing a replica for every device to fetch its part would compile a program per shape.
        whole = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
        ocp.type_handlers.register_type_handler(jax.Array, whole, override=True)
        try:
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        except ValueError as error:  # of a score that is no JSON any more
            step, wrong = next(iter(self._unranked.items()), (-1, ""))
            if not wrong:
                raise
            raise ValueError(self._damaged(step, wrong)) from error
        self._place = self._folder.stat()
        self._saving = -1  # the step that is being written, or was last
        self._lost = ""  # why there is no checkpoint of the step that was to be saved last

    def save(
        self, step: int, state: TrainState, metadata: dict[str, Any], val_map: float | None
    ) -> None:
        """Starts to write the state in the background; waits for the save before it, if need be.

        A full disk is a warning: the next save tries again.

        Args:
            step: of the state.
            state: of the end of the step; may be donated as soon as this returns.
            metadata: JSON-ready.
            val_map: validation mAP of this state; None between evaluations, which never counts
                as best.

        Raises:
            OSError: the storage fails for another reason.
        """
        self._settle()
        saves = {item: ocp.args.StandardSave(tree) for item, tree in _trees(state).items()}
        metadata = metadata | {"format": FORMAT, "version": __version__}
        args = ocp.args.Composite(metadata=ocp.args.JsonSave(metadata), **saves)
        metrics = None if val_map is None else {"mAP": val_map}
        self._saving, self._lost = step, ""
        try:
            if not self._is_there():  # Orbax would make it anew, without the rest of the run
                raise FileNotFoundError(self._folder)
            self._manager.save(step, args=args, metrics=metrics, force=True)
        except Exception as error:  # of the file system, TensorStore or Orbax
            self._failed(error)

    def is_saving(self) -> bool:
        """Whether a save is still being written, for which the next one would wait."""
        return self._manager.is_saving_in_progress()

    def check(self) -> None:
        """As `save` does, tells of a save in the background that has failed; does not wait."""
        # Not by check_for_errors: the error would be taken from the thread that finishes the save,
        # which would then delete the checkpoints that the new one was to replace.
        if not self._manager.is_saving_in_progress():
            self._settle()

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
        if which == "best" and self._unranked:
            step, wrong = next(iter(self._unranked.items()))
            raise ValueError(f"which checkpoint is best is not known: {self._damaged(step, wrong)}")
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
        ema = _flat(restored["ema"]) if state.ema else NO_EMA
        return TrainState(**restored["model"], **restored["training"], ema=ema)

    def restore_variables(self, step: int, variables: dict, ema: EmaState = NO_EMA) -> dict:
        """{params, batch_stats} only, with the structure, shapes and sharding of `variables`.

        Args:
            step: of the checkpoint.
            variables: or their shapes.
            ema: of the shapes that the checkpoint has, to get it in place of the leaves that
                it is of; without it, the variables as they were trained.
        """
        trees = {"model": variables} | ({"ema": _nested(ema)} if ema else {})
        restored = self._restore(step, trees)
        if not ema:
            return restored["model"]
        return with_ema(restored["model"], _flat(restored["ema"]))

    def _restore(self, step: int, trees: dict[str, Any]) -> Any:
        """The items of a checkpoint, with the structure, shapes and sharding of these trees."""
        self._check(step, trees)
        args = {item: ocp.args.StandardRestore(_abstract(tree)) for item, tree in trees.items()}
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**args))
        except jax.errors.JaxRuntimeError:  # such as too little memory
            raise
        except Exception as error:  # of another version, or damaged and without checksums
            version = self.metadata(step).get("version", "an earlier version")
            raise ValueError(
                f"the checkpoint {self._folder / str(step)} of mlcls_jax {version} cannot be "
                f"restored by {__version__} ({one_line(error)}); use that version, or, if the "
                f"folder is damaged, move it away: {others_of(self._folder, step)}"
            ) from error

    def metadata(self, step: int) -> dict[str, Any]:
        """The JSON that was saved with the step.

        Raises:
            ValueError: it is damaged, or of a later format than this version reads.
        """
        self._check(step, [METADATA])
        try:
            metadata = read_metadata(self._folder / str(step))
        except OSError as error:  # it may have been whole a moment ago
            raise ValueError(self._damaged(step, one_line(error))) from error
        if metadata.get("format", 0) > FORMAT:
            raise ValueError(
                f"{self._folder / str(step)} was written by mlcls_jax {metadata.get('version')} "
                f"in format {metadata['format']}; this is mlcls_jax {__version__}, which reads "
                f"formats up to {FORMAT}: install that version, or a later one"
            )
        return metadata

    def wait(self) -> None:
        """Waits for a save that is being written; OSError if it failed."""
        self._settle()
        if self._lost:
            raise OSError(f"{self._lost}. Make room, and the same command continues")

    def close(self) -> None:
        """Waits for a save that is being written; OSError if it failed."""
        self.wait()
        self._manager.close()

    def _settle(self) -> None:
        """Waits for the save in the background, and tells if it has failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # as in `save`
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        """Keeps what there was before a save; OSError unless the disk was full."""
        what = f"the checkpoint of step {self._saving} cannot be written to {self._folder}"
        if not self._is_there():
            raise OSError(
                f"{what}: the folder has gone, or is another one now. Put back what was at "
                f"{self._folder.parent} before the same command continues"
            ) from error
        if is_first_process():
            remove_partial(self._folder)
        self._manager.reload()  # Orbax has crossed off those that the new one was to replace
        reason = "no space left on device" if _is_full(error) else one_line(error)
        self._lost = f"{what} ({reason}); the earlier ones are kept"
        if not _is_full(error):
            raise OSError(f"{self._lost}. Mend that, and the same command continues") from error
        print_warning(f"{self._lost}. Make room: the next save tries again")

    def _add_checksums(self) -> None:
        if is_first_process():
            add_checksums(self._folder, self._saving)

    def _is_there(self) -> bool:
        """Whether the folder is the one that was opened: TensorStore makes it anew in mid-save."""
        try:
            return os.path.samestat(self._place, self._folder.stat())
        except OSError:
            return False

    def _wrong(self, step: int, items: Iterable[str]) -> str:
        return "" if step == self._whole else damage_of(self._folder / str(step), items)

    def _check(self, step: int, items: Iterable[str]) -> None:
        """ValueError where items of a checkpoint are damaged."""
        if wrong := self._wrong(step, items):
            raise ValueError(self._damaged(step, wrong))

    def _damaged(self, step: int, wrong: str) -> str:
        others = others_of(self._folder, step)
        return f"the checkpoint {self._folder / str(step)} is damaged ({wrong}); {others}"


def _is_full(error: BaseException) -> bool:
    return any(text in str(error) for text in ("No space left", "ENOSPC", "quota exceeded"))


def _map_of(metrics: dict[str, float]) -> float:
    value = metrics["mAP"]
    return -math.inf if math.isnan(value) else value


def _trees(state: TrainState) -> dict[str, Any]:
    """The items of a state, without meta."""
    trees: dict[str, Any] = {
        item: {name: getattr(state, name) for name in names} for item, names in _ITEMS.items()
    }
    return trees | ({"ema": _nested(state.ema)} if state.ema else {})


def _nested(ema: EmaState) -> dict[str, dict]:
    """As trees of modules: a path with slashes would be no name of a file."""
    trees = {"params": ema.params, "batch_stats": ema.batch_stats}
    return {name: unflatten(leaves) for name, leaves in trees.items()}


def _flat(trees: dict[str, dict]) -> EmaState:
    return EmaState(flatten(trees["params"]), flatten(trees["batch_stats"]))


def _abstract(tree):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree
    )
