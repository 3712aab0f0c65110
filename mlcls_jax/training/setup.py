"""Opens a run: reads data, weights or the checkpoint, and prints what the run will do."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlcls_jax.config import Augment, Config, Data, Model
from mlcls_jax.config.extensions import fields_of_extensions
from mlcls_jax.config.recipes import with_fields, with_recipe, with_stored_depth
from mlcls_jax.data.images.bit_depth import with_bit_depth
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.loaders.cache import Form
from mlcls_jax.data.loaders.cache_build import with_cache
from mlcls_jax.data.loaders.choice import choose_loader
from mlcls_jax.data.loaders.loader import Reader, cores, local_rows, make_reader
from mlcls_jax.data.oversampling import oversampled
from mlcls_jax.data.readers.read_table import has_folder
from mlcls_jax.data.splits import check_train
from mlcls_jax.evaluation.base_rate import SAMPLE, base_rates, sample_rows
from mlcls_jax.evaluation.best_metric import goodness
from mlcls_jax.evaluation.inference import EvalSpec, eval_spec
from mlcls_jax.models.conventions import IMAGENET, KERAS, PretrainedConfig
from mlcls_jax.models.weights.hub import hub_folder, is_hub
from mlcls_jax.models.weights.load import known_pretrained_config
from mlcls_jax.run.checkpoints import Checkpoints, has_checkpoint
from mlcls_jax.run.loggers.choice import loggers_of
from mlcls_jax.run.metrics_log import MetricsLog, read_metrics
from mlcls_jax.run.own_weights import read_own_weights, warn_of_seen_images
from mlcls_jax.run.stored_config import new_run, with_stored_revision
from mlcls_jax.run.trained_model import check_metadata, read_pretrained_config
from mlcls_jax.run.workdir import BAD_IMAGES, read_config, read_splits_of
from mlcls_jax.step.groups import trainable_paths
from mlcls_jax.step.init import fresh_bias, initial_variables, random_variables, read_weights
from mlcls_jax.step.losses import make_loss
from mlcls_jax.step.mixup import check_pairs, mixes
from mlcls_jax.step.network import describe_network, variables_shape
from mlcls_jax.step.param_tree import flatten
from mlcls_jax.step.phases import PlannedPhase, check_parts, plan_phases
from mlcls_jax.step.programs import StepSpec, state_shape, step_spec
from mlcls_jax.step.train_step import TrainState, make_state
from mlcls_jax.system.console import console, print_table, print_warning
from mlcls_jax.system.devices import describe_devices, is_first_process, make_mesh
from mlcls_jax.system.heap import keeps_heap
from mlcls_jax.system.invocation import command
from mlcls_jax.system.signals import SaveClock
from mlcls_jax.training import consistency
from mlcls_jax.training.compile_ahead import CompileAhead
from mlcls_jax.training.context import NO_EXTENSIONS, Extensions, RunInputs, Services, TrainContext
from mlcls_jax.training.early_stopping import read_early_stopping
from mlcls_jax.training.feature_cache import with_room
from mlcls_jax.training.kept_data import keep_data
from mlcls_jax.training.phase_transition import ended_early
from mlcls_jax.training.pool import ImagePool, Subset
from mlcls_jax.training.timing import PhaseTimer, StartupTimer

RAREST = 5


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
    own = fields_of_extensions(config.model, config.phases, extensions.batches is not None)
    config = with_fields(config, own)
    consistency.check_config(config)
    splits = _read_data(config.data, workdir, extensions.pool)
    stored = read_config(workdir) if has_checkpoint(workdir) else None
    config, filled = with_recipe(config, jax.device_count(), stored)
    config = replace(config, model=with_revision(config.model, stored and stored.model))
    channels = config.model.in_channels
    if stored:
        config = replace(config, data=with_stored_depth(config.data, stored.data))
    elif extensions.pool is None:  # else it is known
        config = replace(config, data=with_found_depth(config.data, splits, channels))
    consistency.check_data(splits, config.model.weights, workdir)
    kept_data = keep_data(
        splits,
        config.data.threads,
        extensions.accept_changed_data,
        look_at_files=startup is not None and extensions.pool is None,
    )
    classes = splits["train"].classes
    splits = splits if "val" in splits else splits | {"val": splits["train"].take([])}
    base_rate = base_rates(splits, config.evaluation.min_positives, config.evaluation.best)
    plan = plan_phases(
        config.phases,
        len(splits["train"]),
        batch_size=config.data.batch_size,
        every=config.evaluation.every,
    )
    mesh = make_mesh()
    _check_rows(config.data, config.augment, plan, mesh.size)
    labels, own_batches = splits["train"].train_labels, extensions.batches is not None
    dtype = np.dtype(np.float32) if own_batches else labels.dtype
    means = splits["train"].mean_targets.tolist()
    spec = step_spec(config, len(classes), means, dtype)
    make_loss(spec.loss, len(classes), spec.frequencies)  # checks weights per class
    for title, fields in (("extensions", own), (f"recipe {config.recipe}", filled)):
        if fields:
            text = ", ".join(f"{path}={value!r}" for path, value in fields.items())
            console.print(f"{title}: {text}")
    if startup:
        startup.reached("data")
    shapes = variables_shape(spec.network, mesh)
    for phase_plan in plan:  # checks that every pattern matches a parameter
        trainable_paths(shapes["params"], phase_plan.phase)
    sample = sample_rows(splits, config.evaluation.train_sample, config.seed)
    plan = with_room(plan, splits, shapes, spec.network, mesh, len(sample))
    images = sum(map(len, splits.values()))
    evaluation = eval_spec(config)
    loader = choose_loader(
        config.data, config.augment, evaluation.image_size, splits["train"].paths, cores()
    )
    reader = make_reader(
        config.data,
        channels,
        images,
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
        kept_data.open(workdir, config)
        checkpoints = Checkpoints(workdir)
        state, pretrained_config = _restore(checkpoints, plan, shapes, mesh, prepare_phase)
        if int(state.step) == plan[-1].stop:
            console.print(f"The run is finished; {new_run(workdir, config.phases)}")
    else:  # the weights first: they may fail, and nothing must be written then
        warn_of_seen_images(config.model.weights, splits)
        bias = fresh_bias(config.model.head_bias, config.loss, means)
        state, pretrained_config = _initial(
            config.model, spec, bias, classes, shapes, mesh, prepare_phase, extensions.variables
        )
        kept_data.open(workdir, config)
        checkpoints = Checkpoints(workdir)
    reader.bad.write()  # of the first batch, which may be read before the workdir exists
    if startup:
        startup.reached("network and weights")
    tables = splits | {SAMPLE: splits["train"].take(sample)}
    readers = _readers(config.data, evaluation, tables, reader, extensions.pool)
    if startup and config.data.cache != "none":
        startup.reached("cache of images")
    inputs = RunInputs(
        config=config,
        workdir=workdir,
        plan=plan,
        splits=splits,
        base_rate=base_rate,
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
    latest = checkpoints.latest()
    metadata = checkpoints.metadata(latest) if latest else {}
    fold = config.data.fold if extensions.pool else None
    services = Services(
        compile_ahead=compile_ahead,
        checkpoints=checkpoints,
        log=MetricsLog(
            workdir,
            latest or 0,
            is_first_process(),
            [*loggers_of(config.log, workdir, latest or 0, fold), *extensions.loggers],
            metadata,
        ),
        save_clock=SaveClock(config.checkpoint.every_minutes),
        timer=PhaseTimer(startup.began if startup else None),
    )
    return TrainContext(inputs, services), state


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


def _read_data(data: Data, workdir: Path, pool: ImagePool | None) -> dict[str, LabelTable]:
    """Returns the splits; pool: of a run of a fold, or of the run on the images of all folds."""
    if pool is None:
        splits = _read_splits(data, workdir)
    elif data.fold < 0:
        splits = pool.folds.pool
    else:
        splits = oversampled(pool.folds.splits_of(data.fold), data)
    for warning in check_train(splits):
        print_warning(warning)
    return splits


def _read_splits(data: Data, workdir: Path) -> dict[str, LabelTable]:
    """Returns the splits, and prints how they were understood."""
    if not data.csv or (has_folder(data, data.csv) and not data.images):
        raise ValueError(
            "config: data.csv and data.images are empty; name your files, such as "
            "--config.data.csv=labels.csv --config.data.images=photos, or a packed data set"
        )
    splits = read_splits_of(workdir, data)
    print_notes(splits)
    return splits


def print_notes(splits: dict[str, LabelTable]) -> None:
    """Prints how the label files were understood, each note once."""
    for note in dict.fromkeys(note for table in splits.values() for note in table.notes):
        console.print(note)


def with_found_depth(data: Data, splits: dict[str, LabelTable], channels: int) -> Data:
    """Returns the section with the bits that deep images use, and prints them.

    Args:
        data: it is not changed.
        splits: all images of the run.
        channels: the field model.in_channels.
    """
    workers = data.threads or cores() + 1
    return with_bit_depth(data, splits.values(), workers, channels, console.print)


def _check_rows(data: Data, augment: Augment, plan: list[PlannedPhase], devices: int) -> None:
    """Raises a ValueError if batches do not divide over processes, devices, parts and pairs."""
    local_rows(data.batch_size, "data.batch_size")
    local_rows(data.eval_batch_size, "data.eval_batch_size")
    check_parts(plan, data.batch_size, devices)
    if mixes(augment):
        for phase_plan in plan:
            check_pairs(data.batch_size // devices // phase_plan.phase.accumulate)


def _readers(
    data: Data,
    evaluation: EvalSpec,
    tables: dict[str, LabelTable],
    reader: Reader,
    pool: ImagePool | None,
) -> dict[str, Reader]:
    """Returns the readers of what every epoch reads, each with its cache if the config asks."""
    size, augment = evaluation.image_size, evaluation.augment

    def one(split: str) -> Reader:
        paths = tables[split].paths
        if pool is None or data.cache == "none":
            return with_cache(reader, data, augment, size, split, paths)
        form, everything = Form.of_split(split, augment, size, reader.pixels), pool.paths
        whole = pool.cached(
            reader, form, lambda: with_cache(reader, data, augment, size, split, everything)
        )
        if whole.cache is None:
            return whole
        return replace(reader, cache=Subset(whole.cache, pool.rows(paths)))

    return {split: one(split) for split in ("train", "val", SAMPLE) if len(tables[split])}


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


def print_header(inputs: RunInputs, state: TrainState) -> None:
    """Prints devices, network, parameters, images and the rarest classes."""
    train = inputs.splits["train"]
    sizes = ", ".join(f"{len(table)} {name}" for name, table in inputs.splits.items() if table)
    total = sum(leaf.size for leaf in flatten(state.params).values())
    rare = sorted(zip(train.positives, train.classes, strict=True))[:RAREST]
    kind = jax.devices()[0].device_kind
    rows = [
        ["devices", describe_devices(jax.device_count(), kind, jax.process_count(), keeps_heap())],
        ["network", describe_network(inputs.step.network)],
        ["parameters", f"{total:,}, {len(train.classes)} classes"],
        ["images", sizes],
        ["loader", str(inputs.loader)],
        ["rarest in train", ", ".join(f"{name} ({count})" for count, name in rare)],
    ]
    print_table("", ["run", str(inputs.workdir)], rows)


def print_end(inputs: RunInputs, finished: bool) -> None:
    """Prints the best metric of each phase, skipped images, and what to do next."""
    workdir, metric = inputs.workdir, inputs.config.evaluation.best
    records = read_metrics(workdir) if is_first_process() else []
    rows = []
    for phase_plan in inputs.plan:
        name = phase_plan.phase.name
        own = [record for record in records if record["phase"] == name and record["val"]]
        values = [record["val"][metric] for record in own]
        if values:
            best = max(values, key=lambda value: goodness(metric, value))
            rows.append([name, f"{values[-1]:.4f}", f"{best:.4f}"])
    if rows:
        print_table(f"val {metric}", ["phase", "last evaluation", "best evaluation"], rows)
    inputs.readers["train"].bad.write()  # with those of the other processes
    if skipped := inputs.readers["train"].bad.summary():
        print_warning(skipped)
    if not finished:
        console.print(f"Stopped; run the same command to continue {workdir}.")
        return
    console.print(
        f"Done. Everything is in {workdir}; next: {command('evaluate')} --workdir {workdir}"
    )
