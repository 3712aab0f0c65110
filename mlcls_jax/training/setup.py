"""Everything before the first step: data, weights or checkpoint, header; and the last words."""

from collections.abc import Callable
from pathlib import Path

import jax

from mlcls_jax.config import Config, Data
from mlcls_jax.config.schema import image_size
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.loaders.cache_build import with_cache
from mlcls_jax.data.loaders.threads import Reader, local_rows, make_reader
from mlcls_jax.data.readers.read_table import has_folder
from mlcls_jax.data.splits import check_train, write_splits
from mlcls_jax.evaluation.base_rate import SAMPLE, base_rate, sample_rows
from mlcls_jax.models.conventions import IMAGENET, KERAS, PretrainedConfig
from mlcls_jax.models.weights.load import known_pretrained_config
from mlcls_jax.run.checkpoints import Checkpoints, has_checkpoint
from mlcls_jax.run.metrics_log import MetricsLog, read_metrics
from mlcls_jax.run.trained_model import check_metadata, read_pretrained_config
from mlcls_jax.run.workdir import BAD_IMAGES, SPLITS, prepare, read_splits_of
from mlcls_jax.step.init import initial_variables, random_variables, read_weights
from mlcls_jax.step.losses import make_loss
from mlcls_jax.step.mixup import check_pairs, mixes
from mlcls_jax.step.optimizer import trainable_paths
from mlcls_jax.step.param_tree import flatten
from mlcls_jax.step.phases import PlannedPhase, check_parts, plan_phases
from mlcls_jax.step.programs import describe_network, state_shape, variables_shape
from mlcls_jax.step.train_step import TrainState, make_state
from mlcls_jax.system.console import console, print_table, print_warning
from mlcls_jax.system.devices import describe_devices, is_first_process, keeps_heap, make_mesh
from mlcls_jax.training import consistency
from mlcls_jax.training.compile_ahead import CompileAhead
from mlcls_jax.training.context import TrainContext
from mlcls_jax.training.feature_cache import with_room
from mlcls_jax.training.phase_transition import ended_early, read_early_stopping
from mlcls_jax.training.timing import PhaseTimer, StartupTimer

RAREST = 5


def open_run(
    config: Config, workdir: Path, first_step: StartupTimer | None = None
) -> tuple[TrainContext, TrainState]:
    """Reads the data, opens the workdir, and gives the state to go on from.

    Args:
        config: of the run.
        workdir: folder of the run, new or used.
        first_step: of a run that trains at once: what its first phase needs is made in threads,
            beginning as soon as the data are found good.  None: nothing is made ahead.

    Raises:
        ValueError: about the user's CSV, images, config, weights or workdir.
    """
    consistency.check_config(config)
    splits = _read_data(config.data, workdir)
    consistency.check_data(splits, config, workdir)
    base, classes = base_rate(splits, config.evaluation.min_positives), splits["train"].classes
    plan, mesh = plan_phases(config, len(splits["train"])), make_mesh()
    _check_rows(config, plan, mesh.size)
    make_loss(config.loss, len(classes), base.frequencies)  # ValueError: weights of other classes
    if first_step:
        first_step.reached("data")
    shapes = variables_shape(config, len(classes), mesh)
    for phase_plan in plan:  # ValueError: a pattern that matches nothing
        trainable_paths(shapes["params"], phase_plan.phase)
    plan = with_room(plan, splits, shapes, config, mesh)
    images = sum(map(len, splits.values()))
    reader = make_reader(config.data, images, workdir / BAD_IMAGES, print_warning)
    sample = sample_rows(splits, config.evaluation.train_sample, config.seed)
    compile_ahead = CompileAhead(config, splits, shapes, mesh, len(sample))

    def start(step: int, pretrained_config: PretrainedConfig | None) -> None:
        phase_plan = next((phase_plan for phase_plan in plan if step < phase_plan.stop), None)
        if first_step and phase_plan and pretrained_config:
            compile_ahead.start(phase_plan, pretrained_config)
            if config.data.cache == "none":  # else the run reads them, once the cache is there
                compile_ahead.read(phase_plan, step, reader)

    if has_checkpoint(workdir):
        checkpoints = _open_workdir(config, workdir, splits)
        state, pretrained_config = _continued(checkpoints, plan, shapes, mesh, start)
    else:  # the weights before anything is written: they may fail
        state, pretrained_config = _initial(config, classes, base.frequencies, shapes, mesh, start)
        checkpoints = _open_workdir(config, workdir, splits)
    reader.bad.write()  # those of the first batch, which may be older than the workdir
    if first_step:
        first_step.reached("network and weights")
    sampled = splits["train"].take(sample)
    readers = _readers(config, splits | {SAMPLE: sampled}, reader)
    if first_step and config.data.cache != "none":
        first_step.reached("cache of images")
    context = TrainContext(
        config=config,
        workdir=workdir,
        plan=plan,
        splits=splits,
        base=base,
        pretrained_config=pretrained_config,
        mesh=mesh,
        readers=readers,
        compile_ahead=compile_ahead,
        checkpoints=checkpoints,
        log=MetricsLog(workdir, checkpoints.latest() or 0, is_first_process()),
        sample=sample,
        timer=PhaseTimer(first_step.began if first_step else None),
    )
    return context, state


def _read_data(data: Data, workdir: Path) -> dict[str, LabelTable]:
    if not data.csv or (has_folder(data, data.csv) and not data.images):
        raise ValueError(
            "config: data.csv and data.images are empty; name your files, such as "
            "--config.data.csv=labels.csv --config.data.images=photos, or a packed data set"
        )
    splits = read_splits_of(workdir, data)
    for warning in check_train(splits):
        print_warning(warning)
    return splits


def _check_rows(config: Config, plan: list[PlannedPhase], devices: int) -> None:
    """ValueError where batches do not divide over processes, devices, parts and pairs."""
    local_rows(config.data.batch_size, "data.batch_size")
    local_rows(config.data.eval_batch_size, "data.eval_batch_size")
    check_parts(plan, config.data.batch_size, devices)
    if mixes(config.augment):
        for phase_plan in plan:
            check_pairs(config.data.batch_size // devices // phase_plan.phase.accumulate)


def _readers(config: Config, splits: dict[str, LabelTable], reader: Reader) -> dict[str, Reader]:
    """Of what is read in every epoch, each with its cache if there is to be one."""
    how = (config.data, config.augment, image_size(config))
    return {
        split: with_cache(reader, *how, split, splits[split].paths)
        for split in ("train", "val", SAMPLE)
        if len(splits[split])
    }


def _open_workdir(config: Config, workdir: Path, splits: dict[str, LabelTable]) -> Checkpoints:
    if is_first_process():
        prepare(workdir, config, splits["train"].classes)
        write_splits(workdir / SPLITS, splits)
    return Checkpoints(workdir)


def _continued(
    checkpoints: Checkpoints,
    plan: list[PlannedPhase],
    shapes: dict,
    mesh: jax.sharding.Mesh,
    start: Callable[[int, PretrainedConfig | None], None],
) -> tuple[TrainState, PretrainedConfig]:
    """The state of the latest checkpoint."""
    latest = checkpoints.resolve("latest")
    metadata = check_metadata(checkpoints.metadata(latest), latest)
    pretrained_config = read_pretrained_config(metadata)
    saved = next(phase_plan for phase_plan in plan if phase_plan.phase.name == metadata["phase"])
    over = read_early_stopping(metadata).is_over(saved.phase.patience)
    step = saved.stop if over else latest
    start(step, pretrained_config)
    state = checkpoints.restore(latest, state_shape(shapes, saved, mesh))
    console.print(f"Continuing at step {step} of {plan[-1].stop}; weights: {pretrained_config}.")
    return ended_early(state, saved, mesh) if over else state, pretrained_config


def _initial(
    config: Config,
    classes: tuple[str, ...],
    frequencies: tuple[float, ...],
    shapes: dict,
    mesh: jax.sharding.Mesh,
    start: Callable[[int, PretrainedConfig | None], None],
) -> tuple[TrainState, PretrainedConfig]:
    """The state before the first phase; without an optimiser's, which begin_phase makes."""
    if config.model.weights:
        # Of weights with a name, the origin is known before the file is.
        start(0, known_pretrained_config(config.model.weights, config.model.variant))
        pretrained = read_weights(config, classes, shapes)
        start(0, pretrained.pretrained_config)
        variables = initial_variables(config, pretrained, frequencies, shapes, mesh)
        pretrained_config = pretrained.pretrained_config
    else:
        pretrained_config = PretrainedConfig(KERAS, IMAGENET)
        start(0, pretrained_config)
        variables = random_variables(config, frequencies, mesh)
    return make_state(variables, (), 0), pretrained_config


def print_header(context: TrainContext, state: TrainState) -> None:
    """What is about to happen: devices, network, parameters, images, rarest classes."""
    config, train = context.config, context.splits["train"]
    sizes = ", ".join(f"{len(table)} {name}" for name, table in context.splits.items())
    total = sum(leaf.size for leaf in flatten(state.params).values())
    rare = sorted(zip(train.positives, train.classes, strict=True))[:RAREST]
    kind = jax.devices()[0].device_kind
    rows = [
        ["devices", describe_devices(jax.device_count(), kind, jax.process_count(), keeps_heap())],
        ["network", describe_network(config, len(train.classes))],
        ["parameters", f"{total:,}, {len(train.classes)} classes"],
        ["images", sizes],
        ["rarest in train", ", ".join(f"{name} ({count})" for count, name in rare)],
    ]
    print_table("", ["run", str(context.workdir)], rows)


def print_end(context: TrainContext, finished: bool) -> None:
    """The phases' results and where everything is."""
    records = read_metrics(context.workdir) if is_first_process() else []
    rows = []
    for phase_plan in context.plan:
        own = [record for record in records if record["phase"] == phase_plan.phase.name]
        if own:
            values = [record["val"]["mAP"] for record in own]
            rows.append([phase_plan.phase.name, f"{values[-1]:.4f}", f"{max(values):.4f}"])
    if rows:
        print_table("val mAP", ["phase", "at its end", "best"], rows)
    context.readers["train"].bad.write()  # with those of the other processes
    if skipped := context.readers["train"].bad.summary():
        print_warning(skipped)
    if not finished:
        console.print(f"Stopped; the same command continues {context.workdir}.")
        return
    console.print(
        f"Done. Everything is in {context.workdir}; next: "
        f"python -m mlcls_jax.evaluate --workdir {context.workdir}"
    )
