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
each of the last three epochs) and half (halfway between the parameters before and after, as in
arXiv:2109.01903).
"""

import argparse
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from out_of_fold import FOLDS, fold_of
from screen_network import ROWS, Network, Settings, Tail, fit_logistic, train_head

from mlcls_jax.config import Augment
from mlcls_jax.data.images.decoding import ImageFile, open_image, read_file
from mlcls_jax.data.images.transforms import eval_image, train_image
from mlcls_jax.data.sampling import generator
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
        draws = (generator(VIEW_SEED, view, image) for image in range(len(files)))
        pairs = zip(files, draws, strict=True)
        yield np.stack([train_image(file, rng, size=size, augment=augment) for file, rng in pairs])


def hidden(labels: np.ndarray, settings: Settings, seed: int) -> np.ndarray:
    """Returns the training labels with some turned around or hidden: float32 [image, class]."""
    rng = np.random.default_rng(seed)
    wrong, unknown = (rng.random(labels.shape) < s for s in (settings.flipped, settings.unknown))
    return np.where(unknown, -1, np.where(wrong & (labels >= 0), 1 - labels, labels)).astype("f4")


def main(arguments: list[str]) -> None:
    """Trains and scores the folds that have no result yet."""
    options = parse(arguments)
    settings, table = parse_settings(options.settings), pd.read_csv(options.csv)
    classes = [name for name in table.columns if name not in ("filename", "split", "fold")]
    labels = table[classes].fillna(-1).to_numpy(np.int8)
    size = settings.size or VARIANTS[options.variant].image_size
    files = [open_image(read_file(str(options.images / name))) for name in table["filename"]]
    plain = np.stack([eval_image(file, size=size, augment=Augment()) for file in files])
    network, both = Network(options.variant, len(classes), settings), [plain, plain[:, :, ::-1]]
    pooled = network.activations(both, network.stages + 2)
    views = itertools.chain(both, drawn_views(files, size, settings))
    inputs = network.activations(views, settings.cut)
    folder, tails = options.out / options.name, {}
    keep_settings(folder, settings)
    for seed in options.seeds:
        fold = table["fold"].to_numpy() if "fold" in table else fold_of(labels, seed)
        for index in range(FOLDS):
            path = folder / f"{seed}_{index}.npz"
            if path.exists():
                continue
            began, held_out = time.perf_counter(), np.flatnonzero(fold == index)
            train = np.flatnonzero(fold != index)
            if settings.images:
                train = np.random.default_rng(seed).permutation(train)[: settings.images]
            known = hidden(labels[train], settings, seed)
            if settings.head == "logistic":
                head = fit_logistic(pooled[train], known, settings.strength)
            else:
                head = train_head(pooled[train], known, settings, seed)
            result = {"logits_head": pooled[held_out, 0] @ head["kernel"] + head["bias"]}
            result["logits"] = result["logits_head"]
            if settings.cut <= network.stages + 1:
                steps = max(round(len(train) / ROWS), 1)
                tail = tails.setdefault(steps, Tail(network, settings, steps))
                own = 10 * seed + index
                result |= tail.train(head, inputs[train], known, inputs[held_out], own)
            seconds = time.perf_counter() - began
            facts = {"rows": held_out, "labels": labels[held_out], "images": len(labels)}
            np.savez(path, seconds=seconds, **facts, **result)
            print(f"{options.name} seed {seed} fold {index}: {seconds:.0f} s", flush=True)


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
    add = parser.add_argument
    add("--csv", type=Path, required=True, help="filename, one column per class, perhaps fold")
    add("--images", type=Path, required=True, help="folder of the images")
    add("--out", type=Path, required=True, help="folder for the rows")
    add("--variant", default="lite0", help="network with weights named imagenet")
    add("--seeds", type=int, nargs="+", default=[0], help="seeds of folds, order and dropout")
    add("name", help="name of the row")
    add("settings", nargs="*", help="such as mixup=0.4; see Settings")
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
    return settings


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
