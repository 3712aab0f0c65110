"""Prints what a run will do, and how it ended."""

from typing import Any

import jax
import jax.numpy as jnp

from mlcls_jax.config.serialization import describe_network
from mlcls_jax.evaluation.best_metric import goodness
from mlcls_jax.run.metrics_log import read_metrics
from mlcls_jax.step.param_tree import flatten
from mlcls_jax.step.train_step import TrainState
from mlcls_jax.system.console import console, print_table, print_warning
from mlcls_jax.system.devices import describe_devices, is_first_process
from mlcls_jax.system.heap import keeps_heap
from mlcls_jax.system.invocation import command
from mlcls_jax.training.context import RunInputs

RAREST = 5


def print_header(inputs: RunInputs, state: TrainState) -> None:
    """Prints devices, network, parameters, images and the rarest classes, and warns if needed."""
    train = inputs.splits["train"]
    sizes = ", ".join(f"{len(table)} {name}" for name, table in inputs.splits.items() if table)
    total = sum(leaf.size for leaf in flatten(state.params).values())
    rare = sorted(zip(train.positives, train.classes, strict=True))[:RAREST]
    kind = jax.devices()[0].device_kind
    rows = [
        ["devices", describe_devices(jax.device_count(), kind, jax.process_count(), keeps_heap())],
        ["network", describe_network(inputs.config.model, len(train.classes))],
        ["parameters", f"{total:,}, {len(train.classes)} classes"],
        ["images", sizes],
        ["loader", str(inputs.loader)],
        ["rarest in train", ", ".join(f"{name} ({count})" for count, name in rare)],
    ]
    print_table("", ["run", str(inputs.workdir)], rows)
    warn_if_slow(inputs.step.network.compute_dtype)


def warn_if_slow(compute_dtype: Any) -> None:
    """Prints a warning if a CPU computes in bfloat16, which is slower there than float32."""
    if jax.default_backend() == "cpu" and compute_dtype == jnp.bfloat16:
        print_warning(
            "model.compute_dtype=bfloat16 on a CPU, where a step in float32 took half the time "
            "(docs/performance.md); the default, auto, is float32 here"
        )


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
    following = f"{command('evaluate')} --workdir {workdir}"
    if not len(inputs.splits["val"]):  # a refit on all folds
        predict = f"{command('predict')} --workdir {workdir} IMAGE_OR_FOLDER"
        following = f"{following} --split test" if "test" in inputs.splits else predict
    console.print(f"Done. Everything is in {workdir}; next: {following}")
