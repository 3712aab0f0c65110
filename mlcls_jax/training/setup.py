"""Opens a run: reads data, weights or the checkpoint, and prints what the run will do."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlcls_jax.config import Augment, Config, Data, Log, Model, Phase
from mlcls_jax.config.extensions import fields_of_extensions
from mlcls_jax.config.recipes import with_fields, with_recipe, with_stored_depth
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.loaders.choice import choose_loader
from mlcls_jax.data.loaders.loader import cores, local_rows, make_reader
from mlcls_jax.evaluation.base_rate import SAMPLE, base_rates, sample_rows
from mlcls_jax.evaluation.inference import eval_spec
from mlcls_jax.models.conventions import IMAGENET, KERAS, PretrainedConfig
from mlcls_jax.models.weights.hub import hub_folder, is_hub
from mlcls_jax.models.weights.load import known_pretrained_config
from mlcls_jax.run.checkpoints import Checkpoints, has_checkpoint
from mlcls_jax.run.loggers.choice import loggers_of
from mlcls_jax.run.metrics_log import MetricsLog
from mlcls_jax.run.own_weights import read_own_weights, warn_of_seen_images
from mlcls_jax.run.stored_config import new_run, with_stored_revision
from mlcls_jax.run.trained_model import check_metadata, read_pretrained_config
from mlcls_jax.run.workdir import BAD_IMAGES, read_config
from mlcls_jax.step.groups import trainable_paths
from mlcls_jax.step.init import fresh_bias, initial_variables, random_variables, read_weights
from mlcls_jax.step.mixup import check_pairs, mixes
from mlcls_jax.step.network import variables_shape
from mlcls_jax.step.phases import PlannedPhase, check_parts, plan_phases
from mlcls_jax.step.programs import StepSpec, state_shape, step_spec
from mlcls_jax.step.train_step import TrainState, make_state
from mlcls_jax.system.console import console, print_warning
from mlcls_jax.system.devices import is_first_process, make_mesh
from mlcls_jax.system.signals import SaveClock
from mlcls_jax.training import consistency
from mlcls_jax.training.compile_ahead import CompileAhead
from mlcls_jax.training.context import NO_EXTENSIONS, Extensions, RunInputs, Services, TrainContext
from mlcls_jax.training.early_stopping import read_early_stopping
from mlcls_jax.training.feature_cache import with_room
from mlcls_jax.training.kept_data import KeptData, keep_data
from mlcls_jax.training.phase_transition import ended_early
from mlcls_jax.training.run_data import read_data, readers_of, with_found_depth
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
    config, splits, mesh = data.config, data.splits, make_mesh()
    own_batches, means = extensions.batches is not None, splits["train"].mean_targets.tolist()
    dtype = np.dtype(np.float32) if own_batches else splits["train"].train_labels.dtype
    spec = step_spec(config, len(splits["train"].classes), means, dtype)
    plan = _planned(config.phases, config.data, config.augment, config.evaluation.every, splits)
    if startup:
        startup.reached("data")
    shapes = variables_shape(spec.network, mesh)
    for phase_plan in plan:  # checks that every pattern matches a parameter
        trainable_paths(shapes["params"], phase_plan.phase)
    sample = sample_rows(splits, config.evaluation.train_sample, config.seed)
    plan = with_room(plan, splits, shapes, spec.network, mesh, len(sample))
    evaluation = eval_spec(config)
    loader = choose_loader(
        config.data, config.augment, evaluation.image_size, splits["train"].paths, cores()
    )
    reader = make_reader(
        config.data,
        config.model.in_channels,
        sum(map(len, splits.values())),
        workdir / BAD_IMAGES,
        print_warning,
        loader.name,
    )
    compile_ahead = CompileAhead(
        spec, evaluation.batch_size, splits, shapes, mesh, len(sample), extensions.batches
    )

    def prepare_phase(step: int, pretrained_config: PretrainedConfig | None) -> None:
        phase_plan = next((phase_plan for phase_plan in plan if step < phase_plan.stop), None)
        if startup and phase_plan and pretrained_config:
            compile_ahead.start(phase_plan, pretrained_config)
            if config.data.cache == "none":  # else the run reads images once the cache is made
                compile_ahead.read(phase_plan, step, reader)

    if has_checkpoint(workdir):
        data.kept.open(workdir, config)
        checkpoints = Checkpoints(workdir)
        state, pretrained_config = _restore(checkpoints, plan, shapes, mesh, prepare_phase)
        if int(state.step) == plan[-1].stop:
            console.print(f"The run is finished; {new_run(workdir, config.phases)}")
    else:  # the weights first: they may fail, and nothing must be written then
        warn_of_seen_images(config.model.weights, splits)
        bias = fresh_bias(config.model.head_bias, config.loss, means)
        state, pretrained_config = _initial(
            config.model,
            spec,
            bias,
            splits["train"].classes,
            shapes,
            mesh,
            prepare_phase,
            extensions.variables,
        )
        data.kept.open(workdir, config)
        checkpoints = Checkpoints(workdir)
    reader.bad.write()  # of the first batch, which may be read before the workdir exists
    if startup:
        startup.reached("network and weights")
    tables = splits | {SAMPLE: splits["train"].take(sample)}
    readers = readers_of(config.data, evaluation, tables, reader, extensions.pool)
    if startup and config.data.cache != "none":
        startup.reached("cache of images")
    inputs = RunInputs(
        config=config,
        workdir=workdir,
        plan=plan,
        splits=splits,
        base_rate=base_rates(splits, config.evaluation.min_positives, config.evaluation.best),
        pretrained_config=pretrained_config,
        mesh=mesh,
        readers=readers,
        sample=sample,
        step=spec,
        evaluation=evaluation,
        metrics=extensions.metrics,
        loader=loader,
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


def _read(config: Config, workdir: Path, extensions: Extensions, look_at_files: bool) -> _RunData:
    """Reads the data of a run, and fills in what they and the recipe decide; see open_run."""
    own = fields_of_extensions(config.model, config.phases, extensions.batches is not None)
    config = with_fields(config, own)
    consistency.check_config(config)
    splits = read_data(config.data, workdir, extensions.pool)
    stored = read_config(workdir) if has_checkpoint(workdir) else None
    config, filled = with_recipe(config, jax.device_count(), stored)
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
    for title, fields in (("extensions", own), (f"recipe {config.recipe}", filled)):
        if fields:
            text = ", ".join(f"{path}={value!r}" for path, value in fields.items())
            console.print(f"{title}: {text}")
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
    if not is_hub(model.weights):
        return model
    weights = str(hub_folder(model.weights)[1])
    console.print(f"model.weights={weights}")
    return replace(model, weights=weights)


def _restore(
    checkpoints: Checkpoints,
    plan: list[PlannedPhase],
    shapes: dict,
    mesh: jax.sharding.Mesh,
    prepare_phase: Callable[[int, PretrainedConfig | None], None],
) -> tuple[TrainState, PretrainedConfig]:
    """Returns the state of the latest checkpoint."""
    latest = checkpoints.resolve("latest")
    metadata = check_metadata(checkpoints.metadata(latest), latest)
    pretrained_config = read_pretrained_config(metadata)
    saved = next(phase_plan for phase_plan in plan if phase_plan.phase.name == metadata["phase"])
    over = read_early_stopping(metadata).is_over(saved.phase.patience)
    step = saved.stop if over else latest
    prepare_phase(step, pretrained_config)
    state = checkpoints.restore(latest, state_shape(shapes, saved, mesh))
    console.print(f"Continuing at step {step} of {plan[-1].stop}; weights: {pretrained_config}.")
    return ended_early(state, saved, mesh) if over else state, pretrained_config


def _initial(
    model: Model,
    spec: StepSpec,
    bias: dict,
    classes: tuple[str, ...],
    shapes: dict,
    mesh: jax.sharding.Mesh,
    prepare_phase: Callable[[int, PretrainedConfig | None], None],
    given: Any = None,
) -> tuple[TrainState, PretrainedConfig]:
    """Returns the state before the first phase, without an optimiser state: begin_phase adds it."""
    network, seed, weights = spec.network, spec.seed, model.weights
    channels = network.in_channels
    if run := read_own_weights(model):
        pretrained_config = run.pretrained_config
        prepare_phase(0, pretrained_config)
        variables = run.variables(network, classes, shapes, seed, bias)
    elif weights:
        # The convention of named weights is known before their file is read.
        prepare_phase(0, known_pretrained_config(weights, model.variant, channels))
        pretrained = read_weights(weights, model.variant, classes, shapes)
        pretrained_config = pretrained.pretrained_config
        prepare_phase(0, pretrained_config)
        variables = initial_variables(
            network, pretrained, shapes, mesh, weights=weights, seed=seed, bias=bias
        )
    else:
        pretrained_config = PretrainedConfig(KERAS, IMAGENET).for_channels(channels)
        prepare_phase(0, pretrained_config)
        variables = random_variables(network, shapes, mesh, seed=seed, bias=bias, given=given)
    return make_state(variables, (), 0), pretrained_config
