"""Trains the upper stages on cached activations of the frozen lower ones, fold by fold.

    python scripts/learning/screen.py --csv labels.csv --images photos --out learning/mine \\
        mixup mixup=0.4
    python scripts/learning/out_of_fold.py learning/mine default mixup

Everything below the stage `cut` runs once per image and mirror image.  Afterwards a run takes half
a minute on two CPU cores, where `mlcls_jax.train` takes three, so many settings can be compared.
The head is trained first, on pooled features, as in the default phases.  After the name of the row
come its settings: the fields of `Settings` that differ.  Finished folds are skipped.

A file SEED_FOLD.npz has the logits of the held-out images at the end (logits) and logits_NAME for
head (after the first phase), flip (mean with the mirror image), average (of the parameters after
each of the last three epochs), half (halfway between the parameters before and after, as in
arXiv:2109.01903).  With own_folds, all of these are of the first network, and ensemble (mean
probability) and soup (mean parameters, arXiv:2203.05482) of all.
"""

import argparse
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fold_runs import add_data_options, fold_of, folds_to_run, read_labels, save, training_rows
from screen_network import (
    ROWS,
    Network,
    Settings,
    Tail,
    fit_logistic,
    train_head,
    train_table,
)

from mlcls_jax.config import Augment
from mlcls_jax.data.images.decoding import ImageFile, open_image
from mlcls_jax.data.images.reading import read_file
from mlcls_jax.data.images.transforms import eval_image, train_image, uniforms_needed
from mlcls_jax.data.sampling import image_random
from mlcls_jax.models.variants import VARIANTS

VIEW_SEED = 7


def drawn_views(files: Sequence[ImageFile], size: int, settings: Settings) -> Iterator[np.ndarray]:
    """Yields augmented views of all images: uint8 [image, size, size, 3]."""
    augment = Augment(
        rand_augment=settings.rand_augment,
        magnitude=settings.magnitude,
        train_resize="random_crop" if settings.min_scale < 1 else "squash",
        min_scale=settings.min_scale,
    )
    for view in range(settings.drawn):
        randoms = (
            image_random(VIEW_SEED, view, image, uniforms_needed(augment))
            for image in range(len(files))
        )
        pairs = zip(files, randoms, strict=True)
        yield np.stack(
            [train_image(file, random, size=size, augment=augment) for file, random in pairs]
        )


def hidden(labels: np.ndarray, settings: Settings, seed: int) -> np.ndarray:
    """Returns the training labels with some turned around or hidden: float32 [image, class]."""
    rng = np.random.default_rng(seed)
    wrong, unknown = (rng.random(labels.shape) < s for s in (settings.flipped, settings.unknown))
    return np.where(unknown, -1, np.where(wrong & (labels >= 0), 1 - labels, labels)).astype("f4")


def main(arguments: list[str]) -> None:
    """Trains and scores the folds that have no result yet."""
    options = parse(arguments)
    settings, (table, classes, labels) = parse_settings(options.settings), read_labels(options.csv)
    size = settings.size or VARIANTS[options.variant].image_size
    files = [open_image(read_file(str(options.images / name))) for name in table["filename"]]
    plain = np.stack([eval_image(file, size=size, augment=Augment()) for file in files])
    network, both = Network(options.variant, len(classes), settings), [plain, plain[:, :, ::-1]]
    pooled = network.activations(both, network.stages + 2)
    views = itertools.chain(both, drawn_views(files, size, settings))
    inputs = network.activations(views, settings.cut)
    folder, tails = options.out / options.name, {}
    keep_settings(folder, settings)
    for run in folds_to_run(folder, table, labels, options.seeds):
        began = time.perf_counter()
        train = training_rows(run, len(labels), settings.images)
        known = hidden(labels[train], settings, run.seed)
        parts = training_parts(known, settings, run.own_seed)
        heads = [fitted_head(pooled[train[p]], known[p], settings, run.seed) for p in parts]
        after_head = pooled[run.held_out, 0] @ heads[0]["kernel"] + heads[0]["bias"]
        result = {"logits": after_head, "logits_head": after_head}
        if settings.cut <= network.stages + 1:
            steps = max(round(len(parts[0]) / ROWS), 1)
            # Weights of positives are compiled into the step.
            means = []
            if settings.pos_weight:
                means = train_table(known[parts[0]], settings).mean_targets.tolist()
            tail = tails.get((steps, tuple(means)))
            if tail is None:
                tail = tails[steps, tuple(means)] = Tail(network, settings, steps, means)
            data = [(inputs[train[p]], known[p]) for p in parts]
            result |= tail.train(heads, data, inputs[run.held_out], run.own_seed)
        save(run, labels, time.perf_counter() - began, result)


def training_parts(labels: np.ndarray, settings: Settings, seed: int) -> list[np.ndarray]:
    """Returns the rows that each network trains on: all, or those of all own folds but one."""
    if not settings.own_folds:
        return [np.arange(len(labels))]
    fold = fold_of(labels.astype(np.int8), seed, settings.own_folds)
    return [np.flatnonzero(fold != index) for index in range(settings.own_folds)]


def fitted_head(
    features: np.ndarray, labels: np.ndarray, settings: Settings, seed: int
) -> dict[str, Any]:
    """Returns {kernel, bias} after the first phase, or of the logistic regression."""
    if settings.head == "logistic":
        return fit_logistic(features, labels, settings.strength)
    return train_head(features, labels, settings, seed)


def keep_settings(folder: Path, settings: Settings) -> None:
    """Writes the settings of a row to its folder, or checks that they are the same.

    Raises:
        ValueError: the folder has results of other settings.
    """
    text, path = json.dumps(dataclasses.asdict(settings), indent=2), folder / "settings.json"
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_text() != text:
        raise ValueError(f"{path} has other settings; remove the folder, or choose another name")
    path.write_text(text)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_data_options(parser)
    parser.add_argument("settings", nargs="*", help="such as mixup=0.4; see Settings")
    return parser.parse_args(arguments)


def parse_settings(texts: list[str]) -> Settings:
    """Returns the settings of a row.

    Raises:
        ValueError: a field is unknown, or its value is not a number.
    """
    known = {field.name: type(field.default) for field in dataclasses.fields(Settings)}
    values = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in known:
            raise ValueError(f"{text}: no such setting; choose from {', '.join(known)}")
        values[name] = known[name](value)
    settings = Settings(**values)
    if settings.head not in ("steps", "logistic"):
        raise ValueError(f"head={settings.head}: choose steps or logistic")
    if settings.own_folds < 0 or settings.own_folds == 1:
        raise ValueError(f"own_folds={settings.own_folds}: choose 0, or 2 or more")
    return settings


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
