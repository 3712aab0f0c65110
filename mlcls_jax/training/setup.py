"""Opens a run: reads data, weights or the checkpoint, and prints what the run will do."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlcls_jax.config import Augment, Config, Data, Log, Model, Phase
from mlcls_jax.config.extensions import fields_of_extensions
from mlcls_jax.config.recipes import with_fields, with_recipe, with_stored_depth
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.loaders.choice import Choice, choose_loader
from mlcls_jax.data.loaders.loader import Reader, cores, local_rows, make_reader
from mlcls_jax.evaluation.base_rate import SAMPLE, base_rates, sample_rows
from mlcls_jax.evaluation.inference import EvalSpec, eval_spec
from mlcls_jax.models.conventions import PretrainedConfig
from mlcls_jax.models.weights.download import with_commit
from mlcls_jax.run.checkpoints import Checkpoints, has_checkpoint
from mlcls_jax.run.loggers.choice import loggers_of
from mlcls_jax.run.metrics_log import MetricsLog
from mlcls_jax.run.own_weights import warn_of_seen_images
from mlcls_jax.run.stored_config import new_run, with_stored_revision
from mlcls_jax.run.workdir import BAD_IMAGES, read_config
from mlcls_jax.step.groups import trainable_paths
from mlcls_jax.step.init import fresh_bias
from mlcls_jax.step.mixup import check_pairs, mixes
from mlcls_jax.step.network import variables_shape
from mlcls_jax.step.phases import PlannedPhase, check_parts, plan_phases
from mlcls_jax.step.programs import StepSpec, step_spec
from mlcls_jax.step.train_step import TrainState
from mlcls_jax.system.console import console, print_warning
from mlcls_jax.system.devices import is_first_process, make_mesh
from mlcls_jax.system.signals import SaveClock
from mlcls_jax.training import consistency
from mlcls_jax.training.compile_ahead import CompileAhead
from mlcls_jax.training.context import NO_EXTENSIONS, Extensions, RunInputs, Services, TrainContext
from mlcls_jax.training.feature_cache import with_room
from mlcls_jax.training.kept_data import KeptData, keep_data
from mlcls_jax.training.run_data import print_filled, read_data, readers_of, with_found_depth
from mlcls_jax.training.starting_state import PreparePhase, initial_state, restored_state
from mlcls_jax.training.timing import PhaseTimer, StartupTimer


@dataclass(frozen=True)
class _RunData:
    """The data of a run, and its config with everything that they and the recipe decide.

    Attributes:
        config: of the run.
        splits: label tables by split; "val" may be empty.
        kept: opens the workdir for these data.
    """

    config: Config
    splits: dict[str, LabelTable]
    kept: KeptData


def open_run(
    config: Config,
    workdir: Path,
    startup: StartupTimer | None = None,
    extensions: Extensions = NO_EXTENSIONS,
) -> tuple[TrainContext, TrainState]:
    """Reads the data, opens the workdir, and returns the state to continue from.

    Args:
        config: of the run; the context has it with its recipe filled in.
        workdir: folder of the run, new or used.
        startup: of a run that trains at once: threads prepare its first phase as soon as the data
            are checked.  None prepares nothing ahead.
        extensions: objects of the caller.

    Raises:
        ValueError: the CSV, an image, the config, the weights or the workdir is wrong.
    """
    data = _read(config, workdir, extensions, look_at_files=startup is not None)
    config, splits = data.config, data.splits
    work = _planned_work(data, workdir, is_own=extensions.batches is not None)
    if startup:
        startup.reached("data")
    compile_ahead = CompileAhead(
        work.spec,
        work.evaluation.batch_size,
        splits,
        work.shapes,
        work.mesh,
        len(work.sample),
        extensions.batches,
    )

    def prepare_phase(step: int, pretrained_config: PretrainedConfig | None) -> None:
        phase_plan = next((phase_plan for phase_plan in work.plan if step < phase_plan.stop), None)
        if startup and phase_plan and pretrained_config:
            compile_ahead.start(phase_plan, pretrained_config)
            if config.data.cache == "none":  # else the run reads images once the cache is made
                compile_ahead.read(phase_plan, step, work.reader)

    checkpoints, state, pretrained_config = _opened(
        data, work, workdir, prepare_phase, extensions.variables
    )
    work.reader.bad.write()  # of the first batch, which may be read before the workdir exists
    if startup:
        startup.reached("network and weights")
    tables = splits | {SAMPLE: splits["train"].take(work.sample)}
    readers = readers_of(config.data, work.evaluation, tables, work.reader, extensions.pool)
    if startup and config.data.cache != "none":
        startup.reached("cache of images")
    inputs = RunInputs(
        config=config,
        workdir=workdir,
        plan=work.plan,
        splits=splits,
        base_rate=base_rates(splits, config.evaluation.min_positives, config.evaluation.best),
        pretrained_config=pretrained_config,
        mesh=work.mesh,
        readers=readers,
        sample=work.sample,
        step=work.spec,
        evaluation=work.evaluation,
        metrics=extensions.metrics,
        loader=work.loader,
        pool=extensions.pool,
        kept=extensions.kept,
    )
    services = Services(
        compile_ahead=compile_ahead,
        checkpoints=checkpoints,
        log=_metrics_log(config.log, workdir, checkpoints, extensions, config.data.fold),
        save_clock=SaveClock(config.checkpoint.every_minutes),
        timer=PhaseTimer(startup.began if startup else None),
    )
    return TrainContext(inputs, services), state


@dataclass(frozen=True)
class _Work:
    """What a run computes, decided before its weights are read.

    Attributes:
        spec: of the step.
        plan: the phases in steps.
        shapes: of the variables.
        mesh: of all devices.
        sample: rows of the training images that are evaluated.
        evaluation: how images are evaluated.
        loader: what reads the images, and why.
        reader: reads them.
    """

    spec: StepSpec
    plan: list[PlannedPhase]
    shapes: dict
    mesh: jax.sharding.Mesh
    sample: np.ndarray
    evaluation: EvalSpec
    loader: Choice
    reader: Reader


def _planned_work(data: _RunData, workdir: Path, is_own: bool) -> _Work:
    """Returns what a run computes; is_own: whether the caller makes the batches."""
    config, splits, mesh = data.config, data.splits, make_mesh()
    train = splits["train"]
    dtype = np.dtype(np.float32) if is_own else train.train_labels.dtype
    spec = step_spec(config, len(train.classes), train.mean_targets.tolist(), dtype)
    plan = _planned(config.phases, config.data, config.augment, config.evaluation.every, splits)
    shapes = variables_shape(spec.network, mesh)
    for phase_plan in plan:  # checks that every pattern matches a parameter
        trainable_paths(shapes["params"], phase_plan.phase)
    sample = sample_rows(splits, config.evaluation.train_sample, config.seed)
    plan = with_room(plan, splits, shapes, spec.network, mesh, len(sample))
    evaluation = eval_spec(config)
    loader = choose_loader(config.data, config.augment, evaluation.image_size, train.paths, cores())
    reader = make_reader(
        config.data,
        config.model.in_channels,
        sum(map(len, splits.values())),
        workdir / BAD_IMAGES,
        print_warning,
        loader.name,
    )
    return _Work(spec, plan, shapes, mesh, sample, evaluation, loader, reader)


def _opened(
    data: _RunData, work: _Work, workdir: Path, prepare_phase: PreparePhase, variables: Any
) -> tuple[Checkpoints, TrainState, PretrainedConfig]:
    """Opens the workdir.

    Args:
        data: of the run.
        work: what it computes.
        workdir: folder of the run, new or used.
        prepare_phase: see `restored_state`.
        variables: of the caller's own network; None: random ones.

    Returns:
        Its checkpoints, the state to continue from, and the pretrained config.
    """
    config, train = data.config, data.splits["train"]
    if has_checkpoint(workdir):
        data.kept.open(workdir, config)
        checkpoints = Checkpoints(workdir)
        restored = restored_state(checkpoints, work.plan, work.shapes, work.mesh, prepare_phase)
        if int(restored[0].step) == work.plan[-1].stop:
            console.print(f"The run is finished; {new_run(workdir, config.phases)}")
        return checkpoints, *restored
    # The weights first: they may fail, and nothing must be written then.
    warn_of_seen_images(config.model.weights, data.splits)
    bias = fresh_bias(config.model.head_bias, config.loss, train.mean_targets.tolist())
    initial = initial_state(
        config.model,
        work.spec,
        bias,
        train.classes,
        work.shapes,
        work.mesh,
        prepare_phase,
        variables,
    )
    data.kept.open(workdir, config)
    return Checkpoints(workdir), *initial


def _read(config: Config, workdir: Path, extensions: Extensions, look_at_files: bool) -> _RunData:
    """Reads the data of a run, and fills in what they and the recipe decide; see open_run."""
    own = fields_of_extensions(config.model, config.phases, extensions.batches is not None)
    config = with_fields(config, own)
    consistency.check_config(config)
    splits = read_data(config.data, workdir, extensions.pool)
    stored = read_config(workdir) if has_checkpoint(workdir) else None
    config, filled = with_recipe(config, stored)
    config = replace(config, model=with_revision(config.model, stored and stored.model))
    if stored:
        config = replace(config, data=with_stored_depth(config.data, stored.data))
    elif extensions.pool is None:  # else it is known
        depth = with_found_depth(config.data, splits, config.model.in_channels)
        config = replace(config, data=depth)
    consistency.check_data(splits, config.model.weights, workdir)
    kept = keep_data(
        splits,
        config.data.threads,
        extensions.accept_changed_data,
        look_at_files=look_at_files and extensions.pool is None,
    )
    print_filled("extensions", own)
    print_filled(f"recipe {config.recipe}", filled)
    splits = splits if "val" in splits else splits | {"val": splits["train"].take([])}
    return _RunData(config, splits, kept)


def _planned(
    phases: list[Phase],
    data: Data,
    augment: Augment,
    every: str,
    splits: dict[str, LabelTable],
) -> list[PlannedPhase]:
    """Returns the phases in steps.

    Raises:
        ValueError: batches do not divide over processes, devices, parts and pairs.
    """
    images, devices = len(splits["train"]), jax.device_count()
    plan = plan_phases(phases, images, batch_size=data.batch_size, every=every)
    local_rows(data.batch_size, "data.batch_size")
    local_rows(data.eval_batch_size, "data.eval_batch_size")
    check_parts(plan, data.batch_size, devices)
    if mixes(augment):
        for phase_plan in plan:
            check_pairs(data.batch_size // devices // phase_plan.phase.accumulate)
    return plan


def _metrics_log(
    log: Log, workdir: Path, checkpoints: Checkpoints, extensions: Extensions, fold: int
) -> MetricsLog:
    """Returns the log of a run, which continues after its latest checkpoint."""
    latest = checkpoints.latest() or 0
    loggers = loggers_of(log, workdir, latest, fold if extensions.pool else None)
    metadata = checkpoints.metadata(latest) if latest else {}
    return MetricsLog(
        workdir, latest, is_first_process(), [*loggers, *extensions.loggers], metadata
    )


def with_revision(model: Model, stored: Model | None) -> Model:
    """Returns the section with the commit of weights on the Hub, and downloads and prints it.

    Args:
        model: section of the config.
        stored: that of the run that continues, whose weights are not read again; None: a new run.
    """
    if stored:
        return with_stored_revision(model, stored)
    weights = with_commit(model.weights, model.variant)
    if weights != model.weights:
        console.print(f"model.weights={weights}")
    return replace(model, weights=weights)
