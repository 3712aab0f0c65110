"""Part 5: alternatives for depthwise convolutions and batch norm, and XLA's flags.

Each distinct depthwise layer of B0 and B5 is timed alone, also with the normalisation and
activation that follow it.  Then whole training steps and evaluations of B0 are timed with tables of
kernels (docs/performance.md), and training steps with one flag each.  kernel_table.json, next to
the results, has the rules of the fastest step and of the fastest evaluation.  Without an
accelerator the layers are those of B0, in float32 and without the kernels and flags that a CPU does
not have.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from depthwise_layers import Layer, layers_of
from jax import lax
from kernel_settings import (
    NORMALIZED,
    ON_CPU,
    OPERATIONS,
    PALLAS,
    PER_LAYER,
    REHEARSAL,
    TABLES,
    Setting,
)
from part_networks import add_tiny
from part_record import Record, options_of

from mlcls_jax.benchmark.timing import seconds_per_step
from mlcls_jax.models.batch_norm import MOMENTS
from mlcls_jax.models.ops import choice

FASTEST = "kernel_table.json"
CLEAR = 0.95  # a kernel replaces XLA's own where it takes at most this share of its time


def nchw_conv(x, kernel, stride: int, padding: Any):
    """Convolves [batch, channel, height, width], the other layout of cuDNN."""
    from mlcls_jax.models.conventions import pad_widths

    pads = [pad_widths(padding, size, kernel.shape[0], stride) for size in x.shape[2:]]
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        dimension_numbers=("NCHW", "HWIO", "NCHW"),
        feature_group_count=x.shape[1],
    )


def arrays_of(layer: Layer, dtype: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns random (x, kernel, gradient of the result) of a layer."""
    x, kernel, grad = (
        jax.random.normal(jax.random.key(i), shape, dtype) for i, shape in enumerate(layer.shapes)
    )
    return x, kernel, grad


def timed(function: Callable[..., Any], arrays: tuple[jax.Array, ...], several: int) -> Any:
    """Returns a function to time; its program applies `function` several times in a row.

    One application has no loop around it: on a CPU, a loop changes layouts and fusions, and made
    the shifted sum 5 to 28 times slower and XLA's convolution up to 31 times faster than alone.
    """
    if several == 1:
        alone = jax.jit(function)
        return partial(seconds_of, alone, arrays)
    shape = jax.eval_shape(function, *arrays)

    @jax.jit
    def repeat(*arrays):
        def body(_, before):
            # Every application depends on the one before, so none can be left out or moved.
            first = jax.tree.map(lambda leaf: leaf.ravel()[0], before)
            again, first = lax.optimization_barrier((arrays, first))
            return jax.tree.map(
                lambda leaf, one: (leaf.ravel().at[0].add(one * 0)).reshape(leaf.shape),
                function(*again),
                first,
            )

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
        return lax.fori_loop(0, several, body, zeros)

    return lambda steps: seconds_of(repeat, arrays, steps) / several


def seconds_of(function: Callable[..., Any], arrays: tuple[jax.Array, ...], steps: int) -> float:
    """Returns the seconds that some calls take, one after the other."""
    began = time.perf_counter()
    jax.block_until_ready([function(*arrays) for _ in range(steps)][-1])
    return time.perf_counter() - began


def functions_of(operation: str, interpret: bool | None) -> dict[str, Callable[..., Any]]:
    """Returns the implementations of an operation as functions of arrays and the layer's options.

    Args:
        operation: a key of OPERATIONS.
        interpret: see Setting.
    """
    own = {name: f for name, f in OPERATIONS[operation].items() if name != "pallas"}
    if interpret is None:
        return own
    return own | {"pallas": partial(PALLAS[operation], interpret=interpret)}


def time_layer(layer: Layer, setting: Setting) -> dict[str, dict[str, Any]]:
    """Returns microseconds, or the error, of each implementation of each operation."""
    x, kernel, grad = arrays_of(layer, setting.dtype)
    found: dict[str, dict[str, Any]] = {}
    options: dict[str, Any] = {"stride": layer.stride, "padding": "same"}
    statistics = (jnp.ones(layer.channels),) * 4
    for operation in OPERATIONS:
        arrays = (x, kernel) if operation == "depthwise" else (x, kernel, grad)
        settings = options
        if operation == NORMALIZED:
            arrays, settings = (x, kernel, *statistics), options | {"activation": jax.nn.silu}
        runs = functions_of(operation, setting.interpret).items()
        cases = {name: (partial(f, **settings), arrays) for name, f in runs}
        if operation == "depthwise":
            turned = (jnp.transpose(x, (0, 3, 1, 2)), kernel)
            cases["native, NCHW"] = partial(nchw_conv, **options), turned
        found[operation] = {name: microseconds(*case, setting) for name, case in cases.items()}
    return found


def microseconds(function: Any, arrays: tuple[jax.Array, ...], setting: Setting) -> float | str:
    """Returns the microseconds of one application, or the error as text."""
    try:
        run = timed(function, arrays, setting.several)
        spread = seconds_per_step({"run": run}, setting.seconds, setting.repeats)["run"]
        return round(1e6 * spread.median, 2)
    except Exception as error:  # one kernel that fails does not end the others
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def time_moments(layer: Layer, setting: Setting) -> dict[str, float | str]:
    """Returns the microseconds of the batch statistics of a layer's result."""
    x = arrays_of(layer, setting.dtype)[0]
    return {name: microseconds(function, (x,), setting) for name, function in MOMENTS.items()}


def best_table(layers: list[dict[str, Any]], platform: str, dtype: str) -> dict[str, list[Any]]:
    """Returns a table with a rule for each layer in which another kernel is clearly faster.

    Args:
        layers: {"layer": facts, "times": {operation: {implementation: microseconds}}}.
        platform: a name in `choice.PLATFORMS`.
        dtype: of the measurement.
    """
    table = {name: list(choice.table()[name]) for name in OPERATIONS}
    for measured in layers:
        for operation, times in measured["times"].items():
            known = {k: v for k, v in times.items() if k in OPERATIONS[operation]}
            numbers = {k: v for k, v in known.items() if isinstance(v, float)}
            if platform == "cpu":  # XLA only interprets it there
                numbers.pop("pallas", None)
            if not numbers:
                continue
            fastest = min(numbers, key=lambda name: numbers[name])
            facts = {"platform": platform, "dtype": dtype, **measured["layer"]}
            now = choice.choose(operation, OPERATIONS[operation], **facts)
            if fastest != now and numbers[fastest] <= CLEAR * numbers.get(now, float("inf")):
                table[operation].insert(0, {**facts, "use": fastest})
    return table


def step_rate(
    kind: str, environment: dict[str, str], setting: Setting, limit: float
) -> dict[str, Any]:
    """Returns images/s of a step in a process with these environment variables.

    Args:
        kind: "train", or "forward" for an evaluation.
        environment: variables of the process.
        setting: its step, batch and for_seconds are used.
        limit: seconds after which the process is ended.

    Raises:
        RuntimeError: the process or the step failed.
    """
    worker = Path(__file__).with_name("speed_worker.py")
    done = subprocess.run(
        [sys.executable, str(worker), "speed_ours", *setting.step],
        input=f"{kind}@{setting.batch} {setting.for_seconds}\n",
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=max(limit, 5.0),
    )
    lines = done.stdout.splitlines()
    if done.returncode or len(lines) < 2:
        raise RuntimeError(f"ended with {done.returncode}: {done.stderr[-200:]}")
    reply = json.loads(lines[-1])
    if "error" in reply:
        raise RuntimeError(reply["error"])
    return {
        "images_per_second": reply["steps"] * reply["batch"] / reply["seconds"],
        "peak_memory": reply["peak_memory"],
        "compile_seconds": reply["compile_seconds"],
    }


def main() -> None:
    """Times layers, whole steps with each table, and each flag."""
    options = options_of(__doc__)
    record = Record("kernels", options)
    platform = str(jax.devices()[0].platform)
    platform = "cuda" if platform == "gpu" else platform
    setting = REHEARSAL if options.rehearse else ON_CPU if platform == "cpu" else Setting()
    add_tiny()
    layers = [layer for network in setting.networks for layer in layers_of(*network)]
    layers = layers[:1] if options.rehearse else layers
    record.plan([f"layer {layer}" for layer in layers] + [f"moments {x}" for x in layers[:3]])
    record.plan([f"step, {name}" for name in (*setting.tables, PER_LAYER)])
    record.plan([f"evaluation, {name}" for name in (*setting.evaluations, PER_LAYER)])
    record.plan([f"step, flag {flag or 'none'}" for flag in setting.flags])
    timed_layers = []
    for layer in layers:
        # Half of the time is for whole steps, which decide.
        least = 2 if options.rehearse else options.limit / 2
        times = record.measure(f"layer {layer}", lambda x=layer: time_layer(x, setting), least)
        if times:
            timed_layers.append({"layer": layer.facts, "times": times})
    for layer in layers[:3]:
        record.measure(f"moments {layer}", lambda x=layer: time_moments(x, setting))
    time_steps(record, setting, best_table(timed_layers, platform, setting.dtype))


def time_steps(record: Record, setting: Setting, per_layer: dict[str, Any]) -> None:
    """Measures whole steps with each table and flag, and stores the rules of the fastest ones."""

    def measure(name: str, kind: str, variables: dict[str, str]) -> float:
        run = partial(step_rate, kind, variables, setting)
        step = record.measure(name, lambda: run(record.left), 5)
        return step["images_per_second"] if step else 0.0

    def fastest(title: str, kind: str, names: tuple[str, ...]) -> dict[str, Any] | None:
        rates = {}
        for name in (*names, PER_LAYER):
            path = folder / f"kernels_{name.replace(',', '').replace(' ', '_')}.json"
            path.write_text(text_of(tables[name]), encoding="utf-8")
            variables = {choice.VARIABLE: str(path.resolve())}
            rates[name] = measure(f"{title}, {name}", kind, variables)
        name = max(rates, key=lambda name: rates[name])
        return tables[name] if rates[name] else None

    folder, tables = record.options.out, TABLES | {PER_LAYER: per_layer}
    step = fastest("step", "train", setting.tables)
    if step is not None:
        (folder / FASTEST).write_text(text_of(step), encoding="utf-8")
    evaluation = fastest("evaluation", "forward", setting.evaluations)
    if step is not None and evaluation is not None:
        # Only evaluations use these rules, so they do not change the fastest step.
        rules = {name: rules for name, rules in evaluation.items() if name == NORMALIZED}
        rules |= {name: rules for name, rules in step.items() if name != NORMALIZED}
        (folder / FASTEST).write_text(text_of(rules), encoding="utf-8")
    for flag in setting.flags:
        both = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
        measure(f"step, flag {flag or 'none'}", "train", {"XLA_FLAGS": both})


def text_of(table: dict[str, Any]) -> str:
    """Returns a table of kernels as JSON."""
    return json.dumps(table, indent=1) + "\n"


if __name__ == "__main__":
    main()
