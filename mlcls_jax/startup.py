"""Everything before the first step: data, weights or checkpoint, header; and the last words."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mlcls_jax.checkpoint import Checkpoints, has_checkpoint
from mlcls_jax.config import Config
from mlcls_jax.data.pipeline import local_rows
from mlcls_jax.data.splits import check_train, write_splits
from mlcls_jax.devices import is_first_process, make_mesh, replicate, replicated, uses_huge_pages
from mlcls_jax.logs import MetricsLog, read_metrics
from mlcls_jax.loop import Session
from mlcls_jax.models.lineages import IMAGENET, KERAS, Origin
from mlcls_jax.models.names import is_name
from mlcls_jax.models.pretrained import load_pretrained, merge, with_classes
from mlcls_jax.optimizer import flatten, group_table, trainable_paths
from mlcls_jax.phases import PlannedPhase, plan_phases
from mlcls_jax.programs import build_model, fresh_state, image_size, state_shape, variables_shape
from mlcls_jax.scoring import base_rate, constant_scores
from mlcls_jax.terminal import console, print_table, print_warning
from mlcls_jax.train_step import TrainState, make_eval_step, make_state
from mlcls_jax.workdir import SPLITS, prepare, read_origin, read_splits_of

RAREST = 5


def open_session(config: Config, workdir: Path) -> tuple[Session, TrainState]:
    """Reads the data, opens the workdir, and gives the state to go on from.

    Raises:
        ValueError: about the user's CSV, pictures, config, weights or workdir.
    """
    if not config.data.csv or not config.data.images:
        raise ValueError(
            "config: data.csv and data.images are empty; name your files, such as "
            "--config.data.csv=labels.csv --config.data.images=photos"
        )
    splits = read_splits_of(workdir, config.data)
    for warning in check_train(splits):
        print_warning(warning)
    classes = splits["train"].classes
    base = base_rate(splits, config.evaluation.min_positives)
    plan, mesh = plan_phases(config, len(splits["train"])), make_mesh()
    _check_config(config, len(classes), mesh, plan)
    initial: Any = None
    if not has_checkpoint(workdir):  # before anything is written: it may fail
        initial = initial_variables(config, classes, mesh)
    if is_first_process():
        prepare(workdir, config, classes)
        write_splits(workdir / SPLITS, splits)
    checkpoints = Checkpoints(workdir)
    latest = checkpoints.latest()
    if latest is None:
        variables, origin = initial
        state = make_state(variables, (), 0)  # begin_phase makes the optimiser's
    else:
        meta = checkpoints.meta(latest)
        origin = read_origin(meta)
        saved = next(planned for planned in plan if planned.phase.name == meta["phase"])
        shapes = state_shape(variables_shape(config, len(classes), mesh), saved, mesh)
        state = checkpoints.restore(latest, shapes)
        console.print(f"Continuing at step {latest} of {plan[-1].stop}; weights: {origin}.")
    session = Session(
        config=config,
        workdir=workdir,
        plan=plan,
        splits=splits,
        base=base,
        constant=constant_scores(splits["val"], base),
        origin=origin,
        mesh=mesh,
        predict=make_eval_step(
            build_model(config, len(classes), origin.lineage), origin.normalization, mesh
        ),
        checkpoints=checkpoints,
        log=MetricsLog(workdir, latest or 0, is_first_process()),
    )
    return session, state


def _check_config(
    config: Config, num_classes: int, mesh: jax.sharding.Mesh, plan: list[PlannedPhase]
) -> None:
    """Raises ValueError where the config does not suit the devices or the network's parameters."""
    local_rows(config.data.batch_size, "data.batch_size")
    local_rows(config.data.eval_batch_size, "data.eval_batch_size")
    params = variables_shape(config, num_classes, mesh)["params"]
    for planned in plan:
        trainable_paths(params, planned.phase)


def initial_variables(
    config: Config, classes: tuple[str, ...], mesh: jax.sharding.Mesh
) -> tuple[dict, Origin]:
    """Pretrained (or random) variables, on every device of the mesh.

    The head is fresh, unless a file has one of the same classes, or as wide a one without names.
    """
    model = build_model(config, len(classes))
    key = jax.random.key(config.seed)
    picture = jnp.zeros((1, image_size(config), image_size(config), 3))
    if not config.model.weights:
        init = jax.jit(model.init, out_shardings=replicated(mesh))
        return dict(init(key, picture)), Origin(KERAS, IMAGENET)
    pretrained = load_pretrained(config.model.weights, config.model.variant)
    pretrained = with_classes(pretrained, classes)
    if is_name(config.model.weights):
        # 1000 classes of one's own are not ImageNet's: without its head, a fresh one is kept.
        pretrained.variables["params"].pop("head", None)
    target = variables_shape(config, len(classes), mesh)
    # Only the head is computed: what merge replaces is never initialised.
    target["params"]["head"] = jax.jit(lambda: model.init(key, picture)["params"]["head"])()
    merged, fresh = merge(pretrained.variables, target)
    fit = "classes" if pretrained.classes else "width; the file names no classes"
    console.print(
        f"Weights {config.model.weights} ({pretrained.variant}: {pretrained.origin}); "
        f"new: {', '.join(fresh) if fresh else f'nothing, the head fits by its {fit}'}"
    )
    return replicate(merged, mesh), pretrained.origin


def begin_phase(session: Session, planned: PlannedPhase, state: TrainState) -> TrainState:
    """Prints the phase's parameter groups; at its first step, makes its optimiser state."""
    rows = [
        [row.pattern, f"{row.parameters:,}", f"{row.learning_rate:g}", f"{row.weight_decay:g}"]
        for row in group_table(state.params, planned.phase)
    ]
    name = f"{planned.phase.name}: steps {planned.start + 1} to {planned.stop}"
    print_table(name, ["group", "parameters", "learning rate", "weight decay"], rows)
    if int(state.step) != planned.start:
        return state  # continued inside the phase
    begin = jax.jit(
        partial(fresh_state, planned=planned),
        out_shardings=replicated(session.mesh),
    )
    return begin({"params": state.params, "batch_stats": state.batch_stats})


def print_header(session: Session, state: TrainState) -> None:
    """What is about to happen: devices, network, parameters, pictures, rarest classes."""
    config, train = session.config, session.splits["train"]
    device = jax.devices()[0]
    sizes = ", ".join(f"{len(table)} {name}" for name, table in session.splits.items())
    total = sum(leaf.size for leaf in flatten(state.params).values())
    rare = sorted(zip(train.positives, train.classes, strict=True))[:RAREST]
    pages = ", huge pages" if uses_huge_pages() else ""
    processes = f"{jax.process_count()} process" + ("es" if jax.process_count() > 1 else "")
    rows = [
        ["devices", f"{jax.device_count()} x {device.device_kind}, {processes}{pages}"],
        ["network", f"EfficientNet {config.model.variant}, {image_size(config)} px"],
        ["parameters", f"{total:,}, {len(train.classes)} classes"],
        ["pictures", sizes],
        ["rarest in train", ", ".join(f"{name} ({count})" for count, name in rare)],
    ]
    print_table("", ["run", str(session.workdir)], rows)


def print_end(session: Session, finished: bool) -> None:
    """The phases' results and where everything is."""
    records = read_metrics(session.workdir) if is_first_process() else []
    rows = []
    for planned in session.plan:
        own = [record for record in records if record["phase"] == planned.phase.name]
        if own:
            values = [record["val"]["mAP"] for record in own]
            rows.append([planned.phase.name, f"{values[-1]:.4f}", f"{max(values):.4f}"])
    if rows:
        print_table("val mAP", ["phase", "at its end", "best"], rows)
    if not finished:
        console.print(f"Stopped; the same command continues {session.workdir}.")
        return
    console.print(
        f"Done. Everything is in {session.workdir}; next: "
        f"python -m mlcls_jax.evaluate --workdir {session.workdir}"
    )
