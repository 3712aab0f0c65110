"""Orbax checkpoints of a run: the two latest, and the best by `evaluation.best`.

Each checkpoint contains these items:

    model       parameters and batch statistics, which is all that evaluation needs
    training    optimiser state and running totals
    metadata    JSON: phase, config, classes, normalisation and metrics
    ema         the moving averages (EMA) of the model, if the phase keeps them
"""

import os
import threading
from collections.abc import Iterable
from concurrent.futures import wait
from contextlib import suppress
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
from mlcls_jax.evaluation.best_metric import DEFAULT, goodness
from mlcls_jax.run.bucket_checkpoints import fetched, prune, push_checkpoint
from mlcls_jax.run.checkpoint_integrity import (
    FOLDER,
    FORMAT,
    METADATA,
    REPLACED,
    SCORE,
    add_checksums,
    check_step,
    others_of,
    read_metadata,
    remove_partial,
    remove_replaced,
    set_damaged_aside,
    steps_in_folder,
)
from mlcls_jax.run.checkpoint_integrity import has_checkpoint as has_checkpoint
from mlcls_jax.run.checkpoint_integrity import saved_steps as saved_steps
from mlcls_jax.run.checkpoint_items import abstract, ema_of, nested, trees_of, whole_arrays
from mlcls_jax.run.save_threads import end_threads
from mlcls_jax.step.ema import NO_EMA, EmaState, with_ema
from mlcls_jax.step.train_step import TrainState
from mlcls_jax.system import threads
from mlcls_jax.system.bucket import copy_of
from mlcls_jax.system.console import one_line, print_warning
from mlcls_jax.system.devices import is_first_process, replicated
from mlcls_jax.system.files import damage, is_full, is_regular, sync_file, sync_folder

LAST_SAVE_SECONDS = 20.0  # that a run which fails waits for the save that has begun


class Checkpoints:
    """The checkpoints of one workdir, by step."""

    def __init__(self, workdir: Path, read_only: bool = False):
        """Opens the checkpoints of a workdir.

        Args:
            workdir: of the run.
            read_only: if False, workdir/checkpoints is created if necessary, and damaged
                checkpoints are moved aside with a warning, so that the newest one is intact.

        Raises:
            ValueError: read_only and the folder does not exist, or all checkpoints are damaged.
        """
        self._folder = (Path(workdir) / FOLDER).absolute()
        if read_only and not self._folder.is_dir():
            raise ValueError(f"{workdir} holds no checkpoint; train in it first")
        if not read_only and copy_of(self._folder):  # each process has its own copy
            self._folder.mkdir(exist_ok=True)
        self._intact: int | None = None  # a step that is known to be intact
        self._unranked: dict[int, str] = {}  # steps with an unreadable score, and the reason
        if read_only:
            found = {step: self._problem(step, [SCORE]) for step in steps_in_folder(self._folder)}
            self._unranked = {step: problem for step, problem in found.items() if problem}
        elif is_first_process():  # the others wait in the manager's __init__
            remove_partial(self._folder)
            self._intact = set_damaged_aside(self._folder)
        best = BestN(get_metric_fn=_goodness, n=1, keep_checkpoints_without_metrics=False)
        # Two, so that one is left if the storage damages the newest.
        keep = AnyPreservationPolicy([LatestN(2), best])
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep,
            best_fn=_goodness,
            create=not read_only,
            read_only=read_only,
            todelete_subdir=REPLACED,  # at once; deleting takes time, in which a run may be killed
            async_options=ocp.AsyncOptions(post_finalization_callback=self._add_checksums),
        )
        try:
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        except ValueError as error:  # a damaged score is not valid JSON
            step, problem = next(iter(self._unranked.items()), (-1, ""))
            if not problem:
                raise
            raise ValueError(self._damaged(step, problem)) from error
        if not read_only and is_first_process():
            sync_folder(self._folder.parent)
        self._opened_folder = self._folder.stat()
        self._saving = -1  # the step of the save in progress, or of the previous save
        self._on_disk = -1  # the step of the last save that a power failure cannot undo
        self._lost = ""  # why the previous save failed
        self._threads = threading.enumerate()  # before the save in progress

    def save(
        self,
        step: int,
        state: TrainState,
        metadata: dict[str, Any],
        value: float | None,
        metric: str = DEFAULT,
    ) -> None:
        """Starts to write a checkpoint in the background, after waiting for the previous save.

        A full disk is only a warning, because the next save tries again.

        Args:
            step: of the state.
            state: of the end of the step; may be donated as soon as this returns.
            metadata: JSON-ready.
            value: `metric` of the validation images for this state; None between evaluations. Such
                a checkpoint is never the best one.
            metric: the one that decides the best checkpoint, the same in every call.

        Raises:
            OSError: the storage fails for another reason.
        """
        self._settle()
        saves = {item: ocp.args.StandardSave(tree) for item, tree in trees_of(state).items()}
        metadata = metadata | {"format": FORMAT, "version": __version__}
        args = ocp.args.Composite(metadata=ocp.args.JsonSave(metadata), **saves)
        metrics = None if value is None else {metric: value}
        self._saving, self._lost, self._threads = step, "", threading.enumerate()
        try:
            if not self._is_same_folder():  # Orbax would create it without the rest of the run
                raise FileNotFoundError(self._folder)
            with whole_arrays():
                self._manager.save(step, args=args, metrics=metrics, force=True)
        except Exception as error:  # from the file system, TensorStore or Orbax
            self._failed(error)

    def is_saving(self) -> bool:
        """Returns whether a save is still in progress; the next save would wait for it."""
        return self._manager.is_saving_in_progress()

    def check(self) -> None:
        """Reports a background save that failed, as `save` does; does not wait.

        Raises:
            OSError: the save failed, but not because of a full disk.
        """
        # Orbax's check_for_errors would take the error from the thread that finishes the save,
        # which would then delete the checkpoints that the new one was meant to replace.
        if not self._manager.is_saving_in_progress():
            self._settle()

    def latest(self) -> int | None:
        """Returns the newest step, or None without a checkpoint."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """Returns the step of the best evaluation, or the newest if none was evaluated."""
        best = self._manager.best_step()
        return self.latest() if best is None else best

    def resolve(self, which: str) -> int:
        """Returns the step of "best", "latest" or a number.

        Raises:
            ValueError: there is no such checkpoint, or the best one cannot be determined.
        """
        check_step(self._folder, sorted(self._manager.all_steps()), which)
        if which == "best" and self._unranked:
            step, problem = next(iter(self._unranked.items()))
            raise ValueError(
                f"the best checkpoint cannot be determined: {self._damaged(step, problem)}"
            )
        step = {"best": self.best(), "latest": self.latest()}.get(which)
        return int(which) if step is None else step

    def restore(self, step: int, state: TrainState) -> TrainState:
        """Returns the saved state.

        Args:
            step: of the checkpoint.
            state: gives the structure, shapes and sharding; its values are not used.

        Raises:
            ValueError: the checkpoint is damaged or was written by an incompatible version.
        """
        restored = self._restore(step, trees_of(state))
        ema = ema_of(restored["ema"]) if state.ema else NO_EMA
        return TrainState(**restored["model"], **restored["training"], ema=ema)

    def saved_shapes(self, step: int, mesh: jax.sharding.Mesh) -> dict:
        """Returns the shapes of the {params, batch_stats} of a checkpoint, replicated over a mesh.

        They are what Orbax has noted, which takes a tenth of the time of tracing the network.

        Raises:
            ValueError: the checkpoint is damaged.
        """
        checkpoint = fetched(self._folder / str(step))
        try:
            handler = ocp.StandardCheckpointHandler()
            noted = handler.metadata(checkpoint / "model")  # pyright: ignore[reportArgumentType]
            shapes = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(
                    leaf.shape, leaf.dtype, sharding=replicated(mesh)
                ),
                dict(noted.tree),
            )
        except Exception as error:  # from Orbax, about what is damaged or of another version
            self._check(step, ["model"])  # only now: restoring checks it in any case
            raise self._unreadable(step, error) from error
        return {"batch_stats": {}} | shapes

    def restore_variables(self, step: int, variables: dict, ema: EmaState = NO_EMA) -> dict:
        """Returns {params, batch_stats} of a checkpoint, without the training state.

        Args:
            step: of the checkpoint.
            variables: the variables or their shapes; give the structure, shapes and sharding.
            ema: shapes of the moving averages in the checkpoint, which then replace the leaves that
                they average; NO_EMA returns the variables as they were trained.

        Raises:
            ValueError: the checkpoint is damaged or was written by an incompatible version.
        """
        trees = {"model": variables} | ({"ema": nested(ema)} if ema else {})
        restored = self._restore(step, trees)
        if not ema:
            return restored["model"]
        return with_ema(restored["model"], ema_of(restored["ema"]))

    def _restore(self, step: int, trees: dict[str, Any]) -> Any:
        """Returns items of a checkpoint with the structure, shapes and sharding of these trees."""
        self._check(step, trees)
        args = {item: ocp.args.StandardRestore(abstract(tree)) for item, tree in trees.items()}
        try:
            with whole_arrays():
                return self._manager.restore(step, args=ocp.args.Composite(**args))
        except jax.errors.JaxRuntimeError:  # for example out of memory
            raise
        except Exception as error:  # from Orbax, about a tree of another version
            raise self._unreadable(step, error) from error

    def _unreadable(self, step: int, error: Exception) -> ValueError:
        """Returns the error about a checkpoint that Orbax does not understand."""
        version = self.metadata(step).get("version")
        return ValueError(
            f"the checkpoint {self._folder / str(step)}, written by mlcls_jax {version}, "
            f"cannot be restored by {__version__} ({one_line(error, limit=300)}); use that "
            "version, or, if the folder is damaged, move it away; "
            f"{others_of(self._folder, step)}"
        )

    def metadata(self, step: int) -> dict[str, Any]:
        """Returns the metadata that was saved with a checkpoint.

        Raises:
            ValueError: it is damaged, or has a later format than this version reads.
        """
        self._check(step, [METADATA])
        try:
            metadata = read_metadata(self._folder / str(step))
        except OSError as error:  # it was readable a moment ago
            raise ValueError(self._damaged(step, one_line(error, limit=300))) from error
        written_format = metadata.get("format")
        if not isinstance(written_format, int):
            raise ValueError(self._damaged(step, f"{METADATA} has no format number"))
        if written_format > FORMAT:
            raise ValueError(
                f"{self._folder / str(step)} was written by mlcls_jax {metadata.get('version')} "
                f"in format {written_format}; this is mlcls_jax {__version__}, which reads "
                f"formats up to {FORMAT}: install that version, or a later one"
            )
        return metadata

    def wait(self) -> None:
        """Waits for a save in progress.

        Raises:
            OSError: it failed.
        """
        self._settle()
        if self._lost:
            raise OSError(f"{self._lost}. Free some space, then run the same command to continue")

    def end_save(self, seconds: float = LAST_SAVE_SECONDS) -> None:
        """Waits for a save in progress for a bounded time, because the run has failed.

        An interpreter that ends during a save would wait for Orbax's threads, and these for
        executors that have ended.  A save that takes longer is discarded as a whole: its folder
        has no final name, and the next run removes it.  A warning says why a save is lost.
        """
        settled = threads.run(self._finish_and_close)
        wait([settled], seconds)
        if not settled.done():
            print_warning(
                f"the checkpoint of step {self._saving} is discarded, because it could not be "
                f"written within {seconds:.0f} s; the earlier ones are kept"
            )
            end_threads(self._threads)
        elif (error := settled.exception()) and not self._lost:
            try:
                self._failed(error)
            except OSError as failed:
                print_warning(one_line(failed))

    def close(self) -> None:
        """Waits for a save in progress and closes the checkpoints.

        Raises:
            OSError: the save failed.
        """
        self.wait()
        self._manager.close()
        if self._saving >= 0 and is_first_process():
            prune(self._folder, steps_in_folder(self._folder))

    def _settle(self) -> None:
        """Waits for the save in the background and reports whether it failed."""
        try:
            self._finish()
        except Exception as error:  # as in `save`
            self._failed(error)

    def _finish(self) -> None:
        """Waits for the save in the background, and until its final name is on disk."""
        self._manager.wait_until_finished()
        if is_first_process():
            remove_replaced(self._folder)
        step = self._saving
        if step != self._on_disk and is_first_process():
            checkpoint = self._folder / str(step)
            if checkpoint.is_dir():  # else the save has failed before
                for file in checkpoint.iterdir():  # Orbax notes there when it renamed the folder
                    if is_regular(file):
                        sync_file(file)
                sync_folder(checkpoint)
                sync_folder(self._folder)
            self._on_disk = step

    def _finish_and_close(self) -> None:
        """Waits as `_finish` does, and for the threads that a failed save has left in Orbax.

        With a thread that nobody has waited for, Orbax's finaliser can block Python 3.11 and 3.12.
        """
        try:
            self._finish()
        except Exception:
            end_threads(self._threads)
            raise
        finally:
            with suppress(Exception):
                self._manager.close()

    def _failed(self, error: BaseException) -> None:
        """Keeps the earlier checkpoints after a failed save; OSError unless the disk is full."""
        end_threads(self._threads)
        failure = f"the checkpoint of step {self._saving} cannot be written to {self._folder}"
        if not self._is_same_folder():
            raise OSError(
                f"{failure}: the folder was removed or replaced. Restore {self._folder.parent}, "
                "then run the same command to continue"
            ) from error
        threads.leave("a save that failed")  # Orbax's, which wait for each other
        if is_first_process():
            remove_partial(self._folder)
        self._manager.reload()  # Orbax has removed those that the new one was meant to replace
        reason = "no space left on device" if is_full(error) else one_line(error, limit=300)
        self._lost = f"{failure} ({reason}); the earlier ones are kept"
        if not is_full(error):
            raise OSError(
                f"{self._lost}. Fix that, then run the same command to continue"
            ) from error
        print_warning(f"{self._lost}. Free some space; the next save will try again")

    def _add_checksums(self) -> None:
        if is_first_process():
            # In a bucket, what the previous save has replaced stays until this one.
            prune(self._folder, steps_in_folder(self._folder))
            push_checkpoint(add_checksums(self._folder, self._saving), self._saving)

    def _is_same_folder(self) -> bool:
        """Returns whether this is still the opened folder; TensorStore would create another."""
        try:
            return os.path.samestat(self._opened_folder, self._folder.stat())
        except OSError:
            return False

    def _problem(self, step: int, items: Iterable[str]) -> str:
        if step == self._intact:
            return ""
        checkpoint = self._folder / str(step)
        is_light = set(items) <= {METADATA, SCORE}
        return damage(checkpoint if is_light else fetched(checkpoint), items)

    def _check(self, step: int, items: Iterable[str]) -> None:
        """Raises ValueError if items of a checkpoint are damaged."""
        if problem := self._problem(step, items):
            raise ValueError(self._damaged(step, problem))

    def _damaged(self, step: int, problem: str) -> str:
        others = others_of(self._folder, step)
        return f"the checkpoint {self._folder / str(step)} is damaged ({problem}); {others}"


def _goodness(metrics: dict[str, float]) -> float:
    """Returns what orders the checkpoints; each has the value of one metric."""
    ((metric, value),) = metrics.items()
    return goodness(metric, value)
