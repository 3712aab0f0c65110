"""Compares a typical Keras script with a run of ours: same images, weights and minutes.

    python -m mlcls_jax.train --config configs/lite0.py --workdir runs/lite0 ...
    python scripts/keras_baseline/compare.py --run runs/lite0
    python scripts/keras_baseline/compare.py --run runs/lite0 --fixed

The script has a frozen base that normalises by itself, behind ImageDataGenerator(rescale=1/255);
Flatten and Dense(sigmoid); Adam at 0.01, binary cross-entropy and the metric "accuracy". The base
is Lite0 with the pretrained weights of our run. It is built by Keras (keras_model.py), and its
features are first compared with ours. --fixed also trains scripts with one more repair each.
Images are decoded once, before the clock starts. On both sides, minutes are those of training,
without validation.

Writes OUT.csv with a row per epoch and OUT.svg with both curves, and prints a table. Needs
`pip install '.[reference]'` for Keras.
"""

# Not in the environment of `make test`; the one of `make test-reference` checks its types.
# pyright: reportMissingImports=false

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from keras_model import (
    SCRIPTS,
    TOLERANCE,
    VARIANT,
    Script,
    build_base,
    build_classifier,
    largest_difference,
)

from mlcls_jax.cli import run
from mlcls_jax.config import Config
from mlcls_jax.config.schema import image_size
from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.evaluation.base_rate import base_rates
from mlcls_jax.evaluation.metrics import average_precisions, classes_to_average
from mlcls_jax.models.weights.load import load_pretrained
from mlcls_jax.run.metrics_log import read_metrics
from mlcls_jax.run.workdir import read_config, read_splits_of
from mlcls_jax.system.files import write_text

OURS = "ours"
BATCH = 32  # default of flow_from_dataframe


@dataclass(frozen=True)
class Epoch:
    """A point of a curve.

    Attributes:
        script: title of the script, or OURS.
        epoch: number of epochs so far.
        minutes: minutes of training so far.
        train_loss: mean loss of the epoch.
        val_loss: validation loss.
        val_map: validation mAP.
        train_accuracy: Keras's "accuracy": how often the argmax of the prediction is the argmax of
            the label row.
        val_accuracy: the same on the validation split.
    """

    script: str
    epoch: float
    minutes: float
    train_loss: float
    val_loss: float
    val_map: float
    train_accuracy: float = float("nan")
    val_accuracy: float = float("nan")


@dataclass(frozen=True)
class Images:
    """A split: pixels, uint8 [image, size, size, 3], and labels, float32 [image, class]."""

    pixels: np.ndarray
    labels: np.ndarray

    def dataset(self, script: Script, shuffle: bool) -> Any:
        """Returns batches as the script's generator yields them."""
        import tensorflow as tf

        data: Any = tf.data.Dataset.from_tensor_slices((self.pixels, self.labels))
        data = data.shuffle(len(self.pixels), seed=0) if shuffle else data
        factor = 1 / 255 if script.rescale else 1.0
        data = data.batch(BATCH).map(lambda x, y: (tf.cast(x, tf.float32) * factor, y))
        return data.prefetch(2)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    config = read_config(options.run)
    if config.model.variant != VARIANT:
        raise ValueError(
            f"{options.run} is a run of {config.model.variant}; set --run to one of {VARIANT}"
        )
    ours = curve_of(options.run)
    minutes = options.minutes or ours[-1].minutes
    splits = read_splits_of(options.run, with_files(config, options.csv, options.images))
    included_classes = np.array(
        base_rates(splits, config.evaluation.min_positives).included_classes
    )
    pretrained, size = load_pretrained(config.model.weights, VARIANT), image_size(config.model)
    train, val = (read_images(splits[name], size) for name in ("train", "val"))
    base = build_base(pretrained, size)
    if (difference := largest_difference(base, pretrained, val.pixels[:8])) > TOLERANCE:
        raise ValueError(
            f"the Keras base differs from our network: its features are {difference:.1e} off "
            f"(limit {TOLERANCE})"
        )
    print(f"the Keras base matches our features within {difference:.1e}", file=sys.stderr)
    epochs: list[Epoch] = []
    for script in SCRIPTS if options.fixed else SCRIPTS[:1]:
        for epoch in train_script(base, script, train, val, included_classes, minutes):
            epochs.append(epoch)
            print(epoch, file=sys.stderr)
    epochs += ours
    frame = pd.DataFrame([dataclasses.asdict(epoch) for epoch in epochs])
    text = frame.to_csv(index=False, lineterminator="\n", float_format="%.5g")
    write_text(options.out.with_suffix(".csv"), text)
    draw(epochs, read_metrics(options.run)[-1]["base_rate"], options.out.with_suffix(".svg"))
    print(markdown(epochs))
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--run", type=Path, required=True, help=f"workdir of a finished run of {VARIANT}")
    add("--csv", default="", help="label CSV, if it was moved since the run")
    add("--images", default="", help="folder of the images, if it was moved since the run")
    add("--minutes", type=float, default=0.0, help="of training (default: as long as our run)")
    add("--fixed", action="store_true", help="also train the scripts with repairs")
    add(
        "--out",
        type=Path,
        default=Path("docs/keras_baseline"),
        help="path of the .csv and .svg, without suffix (default: docs/keras_baseline)",
    )
    return parser.parse_args(arguments)


def with_files(config: Config, csv: str, images: str) -> Any:
    """Returns the run's data config with other paths, if they are not empty."""
    data = config.data
    return dataclasses.replace(data, csv=csv or data.csv, images=images or data.images)


def read_images(labels: LabelTable, size: int) -> Images:
    """Reads images as flow_from_dataframe does; unknown labels, which it lacks, become 0."""
    import keras

    rows = [
        np.asarray(keras.utils.load_img(path, target_size=(size, size), interpolation="nearest"))
        for path in labels.paths
    ]
    return Images(np.stack(rows), np.maximum(labels.labels, 0).astype(np.float32))


def train_script(
    base: Any,
    script: Script,
    train: Images,
    val: Images,
    included_classes: np.ndarray,
    minutes: float,
) -> Iterable[Epoch]:
    """Trains a script for the given minutes, to the end of the epoch, and yields each epoch.

    Args:
        base: from `build_base`; its weights do not change.
        script: the head and its training.
        train: training split.
        val: validation split.
        included_classes: bool [class]; False for classes that are excluded from averages.
        minutes: time to train.
    """
    import keras

    keras.utils.set_random_seed(0)
    model = build_classifier(base, script, train.labels.shape[1])
    batches, held_out = train.dataset(script, True), val.dataset(script, False)
    included = classes_to_average(val.labels.astype(np.int8), included_classes)
    seconds, epoch = 0.0, 0
    while seconds < 60 * minutes:
        began = time.perf_counter()
        history = model.fit(batches, verbose=0).history
        seconds, epoch = seconds + time.perf_counter() - began, epoch + 1
        shown = model.evaluate(held_out, verbose=0, return_dict=True)
        predicted = model.predict(held_out, verbose=0)
        aps = average_precisions(val.labels.astype(np.int8), predicted, included)
        yield Epoch(
            script.title,
            epoch,
            seconds / 60,
            history["loss"][0],
            shown["loss"],
            float(aps[included].mean()),
            history["accuracy"][0],
            shown["accuracy"],
        )


def curve_of(workdir: Path) -> list[Epoch]:
    """Returns the curve of one of our runs; raises ValueError if it has no evaluation."""
    seconds, epochs = 0.0, []
    for record in read_metrics(workdir):
        seconds += record["seconds"]
        val = record["val"]
        losses = record["train_loss"], val["loss"]
        epochs.append(Epoch(OURS, record["epoch"], seconds / 60, *losses, val["mAP"]))
    if not epochs:
        raise ValueError(f"{workdir} has no evaluation; train first, or choose another --run")
    return epochs


def markdown(epochs: Iterable[Epoch]) -> str:
    """Returns a table in Markdown: the last epoch of each script, and its best mAP."""
    header = ["", "epochs", "Keras's accuracy", "train loss", "val loss", "val mAP", "best"]
    rows = []
    for name, curve in _by_script(epochs).items():
        last, best = curve[-1], max(epoch.val_map for epoch in curve)
        accuracy = "" if np.isnan(last.val_accuracy) else f"{last.val_accuracy:.2f}"
        losses = [f"{last.train_loss:.3f}", f"{last.val_loss:.3f}"]
        rows.append([name, f"{last.epoch:.0f}", accuracy, *losses, f"{last.val_map:.3f}"])
        rows[-1].append(f"{best:.3f}")
    return _markdown_table(header, rows)


def _markdown_table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(epochs: Iterable[Epoch], base: dict[str, float], path: Path) -> None:
    """Plots val mAP and losses over minutes, with the base rate as a line.

    Args:
        epochs: the curves of all scripts.
        base: "mAP" and "loss" of predicting each class's frequency.
        path: image to write; its suffix decides the format.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    score, loss = figure.subplots(1, 2)
    for name, curve in _by_script(epochs).items():
        minutes = [epoch.minutes for epoch in curve]
        (line,) = score.plot(minutes, [epoch.val_map for epoch in curve], label=name)
        loss.plot(minutes, [epoch.val_loss for epoch in curve], color=line.get_color())
        train_losses = [epoch.train_loss for epoch in curve]
        loss.plot(minutes, train_losses, color=line.get_color(), linestyle=":")
    for axis, value in ((score, base["mAP"]), (loss, base["loss"])):
        axis.axhline(value, color="grey", linestyle="--", label="class frequencies")
        axis.set_xlabel("minutes of training")
        axis.grid(alpha=0.3)
    score.set_ylabel("val mAP")
    score.set_ylim(0, 1)
    score.legend()
    loss.set_ylabel("loss: val, and train dotted")
    loss.set_yscale("log")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _by_script(epochs: Iterable[Epoch]) -> dict[str, list[Epoch]]:
    scripts: dict[str, list[Epoch]] = {}
    for epoch in epochs:
        scripts.setdefault(epoch.script, []).append(epoch)
    return scripts


if __name__ == "__main__":
    run(main)
