"""Trains on all folds but one with `mlcls_jax.train` or with timm, for out_of_fold.py.

    python scripts/learning/train_folds.py --csv labels.csv --images photos --out learning/mine \\
        after
    python scripts/learning/train_folds.py --csv labels.csv --images photos --out learning/mine \\
        before -- --recipe none
    python scripts/learning/train_folds.py --csv labels.csv --images photos --out learning/mine \\
        --side timm timm

What follows "--" goes to `mlcls_jax.train`, or to scripts/peers/learn_timm.py.  Every run is scored
by the parameters of its last step; nothing is chosen on the held-out images.  Finished folds are
skipped.  A run of 463 images takes three minutes on two CPU cores.  `--train-images 100` trains on
100 images of the other folds, the same ones as `images=100` of screen.py.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from fold_runs import add_data_options, folds_to_run, read_labels, save, training_rows
from scipy.special import logit

from mlcls_jax.models.weights.load import load_pretrained
from mlcls_jax.models.weights.save import save_timm

ROOT = Path(__file__).parents[2]


def main(arguments: list[str]) -> None:
    """Runs the folds that have no result yet."""
    options = parse(arguments)
    table, classes, labels = read_labels(options.csv)
    side = run_timm if options.side == "timm" else run_ours
    folder = options.out / options.name
    for run in folds_to_run(folder, table, labels, options.seeds):
        split = np.full(len(table), "", dtype=object)
        split[run.held_out] = "val"
        split[training_rows(run, len(table), options.train_images)] = "train"
        with tempfile.TemporaryDirectory(prefix="folds_") as scratch:
            csv = Path(scratch) / "labels.csv"
            used = table[["filename", *classes]].assign(split=split)
            used[split != ""].to_csv(csv, index=False)
            began = time.perf_counter()
            scored = side(options, csv, Path(scratch), run.own_seed)
            seconds = time.perf_counter() - began
        names = table["filename"].to_numpy()[run.held_out]
        logits = scored.set_index("filename").loc[names, classes].to_numpy()
        save(run, labels, seconds, {"logits": logits})


def parse(arguments: list[str]) -> argparse.Namespace:
    """Returns the options; `more` has what follows "--"."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_data_options(parser)
    parser.add_argument("--side", default="ours", choices=("ours", "timm"), help="what trains")
    parser.add_argument("--train-images", type=int, help="train on so many images; default: all")
    place = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:place])
    options.more = arguments[place + 1 :]
    return options


def run_ours(options: argparse.Namespace, csv: Path, scratch: Path, seed: int) -> pd.DataFrame:
    """Returns filename and logits of the val images after a run of `mlcls_jax.train`."""
    workdir = scratch / "run"
    fields = {
        "model.variant": options.variant,
        "data.csv": csv,
        "data.images": options.images.resolve(),
        "data.batch_size": 32,
        "seed": seed,
        "evaluation.every": "1000 epochs",  # at the end of a phase only
        "evaluation.train_sample": 0,
        "evaluation.calibration": "none",  # it would be fitted on the held-out images
    }
    changes = [f"--config.{name}={value}" for name, value in fields.items()]
    config = str(ROOT / "configs/default.py")
    common = ["--workdir", str(workdir)]
    call(["-m", "mlcls_jax.train", "--config", config, *common, *changes, *options.more])
    call(["-m", "mlcls_jax.evaluate", *common, "--split", "val", "--checkpoint", "latest"])
    scored = pd.read_csv(workdir / "predictions_val.csv")
    classes = scored.columns[1:]
    scored[classes] = logit(scored[classes].clip(1e-9, 1 - 1e-9))
    return scored


def run_timm(options: argparse.Namespace, csv: Path, scratch: Path, seed: int) -> pd.DataFrame:
    """Returns filename and logits of the val images after a run of timm, from our weights."""
    out, script = scratch / "scores.csv", str(ROOT / "scripts/peers/learn_timm.py")
    pretrained = load_pretrained("imagenet", options.variant)
    weights = save_timm(scratch, pretrained.variables, options.variant)
    paths = ["--csv", str(csv), "--images", str(options.images), "--out", str(out)]
    paths += ["--weights", str(weights), "--model", f"tf_efficientnet_{options.variant}"]
    call([script, *paths, "--seed", str(seed), *options.more])
    return pd.read_csv(out)


def call(command: list[str]) -> None:
    """Runs Python with these arguments.

    Raises:
        ValueError: it failed; the message has the last line of its output.
    """
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ValueError(f"{' '.join(command[:2])}: {lines[-1] if lines else 'no output'}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
