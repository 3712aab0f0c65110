"""Part 2: the GPU computes what the CPU computes, a run learns there, and its checkpoint moves.

On a machine without a GPU, the CPU is compared with itself.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from part_networks import TINY, Work, compile_work, variables_of
from part_record import Record, options_of

from mlcls_jax.models.weights.load import load_pretrained, merge
from mlcls_jax.step.param_tree import flatten

NETWORKS = (("lite0", 224), ("b0", 224), ("b5", 456), ("v2s", 384))
BATCH = 4
CLOSE = 1e-4  # of the largest logit
SAME_MAP = 0.005
PRECISIONS = ("highest", "default")  # of float32 products; a GPU's default is TF32
STEPS = 10


def error(got: Any, expected: Any) -> float:
    """Returns the largest difference as a share of the largest expected value."""
    got, expected = (np.asarray(x, np.float32) for x in (got, expected))
    return float(np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-30))


def compare_logits(variant: str, size: int, weights: Any) -> dict[str, Any]:
    """Returns the errors of the logits, by dtype and precision, relative to the CPU's float32."""
    cpu = jax.local_devices(backend="cpu")[0]
    reference = Work("forward", variant, size, BATCH, "float32")
    expected = compile_work(reference, weights, cpu).result()
    errors = {}
    for precision in PRECISIONS:
        with jax.default_matmul_precision(precision):
            errors[f"float32 {precision}"] = error(
                compile_work(reference, weights).result(), expected
            )
    half = Work("forward", variant, size, BATCH, "bfloat16")
    errors["bfloat16"] = error(compile_work(half, weights).result(), expected)
    return {"errors": errors, "passed": errors["float32 highest"] <= CLOSE}


def weights_of(variant: str) -> Any:
    """Returns ImageNet weights of Lite0 below a random head, or random ones of other networks.

    Raises:
        ValueError: the package of Lite0's weights is missing.
    """
    variables = variables_of(Work("forward", variant, 64, 1, "float32"))
    if variant != "lite0":
        return variables
    return merge(load_pretrained("imagenet", variant).variables, variables)[0]


def compare_step(variant: str, size: int) -> dict[str, Any]:
    """Returns the errors of loss, gradient norm and parameters after one step in float32."""
    cpu = jax.local_devices(backend="cpu")[0]
    work = Work("train", variant, size, BATCH, "float32")
    variables = variables_of(work)
    with jax.default_matmul_precision("highest"):
        (ours, metrics), (reference, expected) = (
            compile_work(work, variables, device).result() for device in (None, cpu)
        )
    ours, reference = (flatten(state.params) for state in (ours, reference))
    errors = {name: error(metrics[name], expected[name]) for name in expected}
    before = flatten(variables["params"])
    # AdamW's first step is the sign of the gradient, so tiny gradients may differ by two steps.
    far = [
        np.mean(np.abs(np.asarray(ours[path]) - np.asarray(leaf)) > 1e-5)
        for path, leaf in reference.items()
    ]
    errors["share of parameters that differ by more than 1e-5"] = float(
        np.average(far, weights=[leaf.size for leaf in before.values()])
    )
    return {"errors": errors, "passed": errors["loss"] <= CLOSE and errors["grad_norm"] <= 1e-2}


def finite_steps(variant: str, size: int) -> dict[str, Any]:
    """Returns whether the state is finite after ten steps in bfloat16."""
    compiled = compile_work(Work("train", variant, size, BATCH))
    compiled.run(STEPS - 1)
    state, metrics = compiled.result()
    finite = all(bool(np.isfinite(np.asarray(x)).all()) for x in jax.tree.leaves(state))
    return {"passed": finite, "loss": float(metrics["loss"])}


def command(*arguments: str, platform: str = "", limit: float = 120.0) -> str:
    """Runs a command of the package and returns its output.

    Raises:
        RuntimeError: it failed; the message has the end of its output.
    """
    environment = os.environ | ({"JAX_PLATFORMS": platform} if platform else {})
    done = subprocess.run(
        [sys.executable, "-m", "mlcls_jax", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit,
    )
    if done.returncode:
        raise RuntimeError(f"{arguments[0]} ended with {done.returncode}: {done.stdout[-300:]}")
    return done.stdout


def mean_average_precision(workdir: Path, platform: str = "") -> float:
    """Evaluates the run's validation images and returns their mAP."""
    # The edited compute_dtype would be refused otherwise.
    options = ("--bootstrap", "0", "--accept-changed-data")
    command("evaluate", "--workdir", str(workdir), *options, platform=platform)
    return float(json.loads((workdir / "eval_val.json").read_text())["values"]["mAP"])


def learn(record: Record) -> dict[str, Any]:
    """Trains Lite0, and returns its mAP in bfloat16, in float32, and on the CPU."""
    options, folder = record.options, record.options.out
    workdir, csv, images = folder / "run", options.csv, options.images
    if not csv:
        csv, images = str(folder / "demo" / "labels.csv"), str(folder / "demo" / "images")
        count = ("--train", "48", "--val", "24") if options.rehearse else ()
        command("demo", "--out", str(folder / "demo"), *count)
    small = (
        "--config.phases[0].duration=1 epochs",
        "--config.phases[1].duration=0 epochs",
        "--config.model.image_size=32",
    )
    command(
        "train",
        "--config=demo",
        f"--workdir={workdir}",
        f"--config.data.csv={csv}",
        f"--config.data.images={images}",
        "--config.model.compute_dtype=bfloat16",
        *(small if options.rehearse else ()),
        limit=max(record.left, 10.0),
    )
    found = {"bfloat16": mean_average_precision(workdir)}
    stored = workdir / "config.json"
    text = stored.read_text()
    try:
        stored.write_text(text.replace('"compute_dtype": "bfloat16"', '"compute_dtype": "float32"'))
        found["float32"] = mean_average_precision(workdir)
        found["float32 on CPU"] = mean_average_precision(workdir, "cpu")
    finally:  # so that the part can be repeated
        stored.write_text(text)
    spread = max(found.values()) - min(found.values())
    return {"mAP": found, "spread": spread, "passed": spread <= SAME_MAP}


def main() -> None:
    """Compares the devices."""
    options = options_of(__doc__)
    record = Record("correctness", options)
    networks = [(TINY, 64)] if options.rehearse else NETWORKS
    record.plan([f"logits {name}" for name, _ in networks] + ["step", "ten steps", "run"])
    size = 64 if options.rehearse else 224
    first = networks[0][0] if options.rehearse else "b0"
    record.measure("ten steps", lambda: finite_steps(first, size))
    record.measure("step", lambda: compare_step(first, size))
    for variant, side in networks:
        record.measure(
            f"logits {variant}", lambda v=variant, s=side: compare_logits(v, s, weights_of(v)), 5
        )
    record.measure("run", lambda: learn(record), 10)


if __name__ == "__main__":
    main()
