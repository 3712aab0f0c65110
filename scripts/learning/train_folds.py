"""Trains on all folds but one with `mlcls_jax.train` or with timm, for out_of_fold.py.

    python scripts/learning/train_folds.py --csv labels.csv --images photos --out learning/mine \\
        after
    python scripts/learning/train_folds.py --csv labels.csv --images photos --out learning/mine \\
        before -- --recipe none
    python scripts/learning/train_folds.py --csv labels.csv --images photos --out learning/mine \\
        --side timm timm

What follows "--" goes to `mlcls_jax.train`, or to scripts/peers/learn_timm.py.  Every run is scored
by the parameters of its last step; nothing is chosen on the held-out images.  Finished folds are
skipped.  A run of 463 images takes three minutes on two CPU cores.
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
from out_of_fold import FOLDS, fold_of
from scipy.special import logit

from mlcls_jax.models.weights.load import load_pretrained
from mlcls_jax.models.weights.save import save_timm

ROOT = Path(__file__).parents[2]
NOT_CLASSES = ("filename", "split", "fold")


def main(arguments: list[str]) -> None:
    """Runs the folds that have no result yet."""
    options = parse(arguments)
    table = pd.read_csv(options.csv)
    classes = [name for name in table.columns if name not in NOT_CLASSES]
    labels = table[classes].fillna(-1).to_numpy(np.int8)
    folder = options.out / options.name
    folder.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        fold = table["fold"].to_numpy() if "fold" in table else fold_of(labels, seed)
        for index in range(FOLDS):
            path = folder / f"{seed}_{index}.npz"
            if path.exists():
                continue
            split = np.where(fold == index, "val", "train")
            rows = np.flatnonzero(fold == index)
            with tempfile.TemporaryDirectory(prefix="folds_") as scratch:
                csv = Path(scratch) / "labels.csv"
                table[["filename", *classes]].assign(split=split).to_csv(csv, index=False)
                began = time.perf_counter()
                side = run_timm if options.side == "timm" else run_ours
                scored = side(options, csv, Path(scratch), 10 * seed + index)
                seconds = time.perf_counter() - began
            names = table["filename"].to_numpy()[rows]
            logits = scored.set_index("filename").loc[names, classes].to_numpy()
            facts = {"rows": rows, "labels": labels[rows], "images": len(table)}
            np.savez(path, logits=logits, seconds=seconds, **facts)
            print(f"{options.name} seed {seed} fold {index}: {seconds:.0f} s", flush=True)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Returns the options; `more` has what follows "--"."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--csv", type=Path, required=True, help="filename, one column per class, perhaps fold")
    add("--images", type=Path, required=True, help="folder of the images")
    add("--out", type=Path, required=True, help="folder for the rows")
    add("--variant", default="lite0", help="network of our side")
    add("--side", default="ours", choices=("ours", "timm"), help="what trains")
    add("--seeds", type=int, nargs="+", default=[0], help="seeds of folds and of training")
    add("name", help="name of the row")
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
